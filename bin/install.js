// Whether the installed dependencies are those of package-lock.json, and the installation if they are not.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fail, findProjectNode, root, runningIsEnough } from './node.js'

const lock = join(root, '.fleetgate-install')

/**
 * npm writes node_modules/.package-lock.json when an installation is complete, whoever started it, so comparing it with
 * package-lock.json needs no stamp of ours and never repeats an `npm ci` that somebody has run by hand.
 *
 * @param {{ dev: boolean }} what whether the development dependencies are asked for too (an image has none)
 */
export function hasDependencies({ dev }) {
  let installed
  let wanted
  try {
    installed = JSON.parse(readFileSync(join(root, 'node_modules', '.package-lock.json'), 'utf8')).packages
    wanted = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')).packages
  } catch {
    return false
  }
  return Object.entries(wanted).every(([path, entry]) => {
    const found = installed[path]
    if (found === undefined) return path === '' || entry.optional || entry.devOptional || (entry.dev && !dev)
    return found.version === entry.version && found.integrity === entry.integrity
  })
}

/**
 * The same, with a Node that can run the project.
 *
 * @param {{ dev: boolean }} what
 */
export const isInstalled = (what) => (runningIsEnough || findProjectNode() !== undefined) && hasDependencies(what)

export async function install(what) {
  await takeLock()
  try {
    if (isInstalled(what)) return
    process.stderr.write('Installing the dependencies of package-lock.json (npm ci) ...\n')
    const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm'
    // Standard output stays the program's own, so that `npm -s run demo -- -o json` can be piped on a first run too.
    const { status, error } = spawnSync(
      npm,
      ['ci', '--include=dev', '--no-audit', '--no-fund', '--no-update-notifier', '--loglevel=error'],
      {
        cwd: root,
        stdio: ['ignore', 2, 2],
        shell: process.platform === 'win32',
      },
    )
    if (error) fail(`npm cannot be run: ${error.message}; it comes with Node from https://nodejs.org`)
    if (status !== 0) fail(`npm ci failed (see above); when that is put right, type the same again in ${root}`)
  } finally {
    rmSync(lock, { force: true })
  }
}

async function takeLock() {
  for (let told = false; ; ) {
    try {
      writeFileSync(lock, String(process.pid), { flag: 'wx' })
      return
    } catch (error) {
      if (error.code !== 'EEXIST') fail(`${root} cannot be written to: ${error.message}`)
    }
    if (!holderLives()) {
      rmSync(lock, { force: true })
      continue
    }
    if (!told) process.stderr.write('Waiting for another installation in this folder ...\n')
    told = true
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
}

function holderLives() {
  if (!existsSync(lock)) return false
  const pid = Number(readFileSync(lock, 'utf8'))
  // Between its creation and its content the file is empty; whoever is that young is alive.
  if (pid === 0) return true
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return error.code === 'EPERM'
  }
}
