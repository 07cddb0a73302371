// Which Node runs this project. Plain JavaScript that Node 18 can read: these files run before the right one is found.
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { constants } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const wanted = 24

export const root = dirname(dirname(fileURLToPath(import.meta.url)))
export const isCheckout = existsSync(join(root, 'cli', 'main.ts'))
export const runningIsEnough = Number(process.versions.node.split('.')[0]) >= wanted

/** @returns {string | undefined} the Node that the project's dependencies bring, if they are installed */
export function findProjectNode() {
  const file = join(root, 'node_modules', 'node', 'bin', process.platform === 'win32' ? 'node.exe' : 'node')
  return existsSync(file) ? file : undefined
}

export function fail(sentence) {
  process.stderr.write(`error: ${sentence}\n`)
  process.exit(2)
}

export const nodeMissing = () =>
  fail(
    isCheckout
      ? `Fleetgate needs Node ${wanted} or newer, this is ${process.version}, and the one it brings is not installed; run: npm ci --include=dev (in ${root})`
      : `Fleetgate needs Node ${wanted} or newer and this is ${process.version}; get it from https://nodejs.org`,
  )

/** Runs a program in this one's place: its terminal, its signals, and in the end its exit code or its signal. */
export function become(command, args, codeOfSuccess = 0) {
  const child = spawn(command, args, { stdio: 'inherit' })
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP']
  for (const signal of signals) process.on(signal, () => child.kill(signal))
  child.on('error', (error) => fail(`${command} cannot be run: ${error.message}`))
  child.on('exit', (code, signal) => {
    if (signal === null) process.exit(code || codeOfSuccess)
    for (const name of signals) process.removeAllListeners(name)
    process.kill(process.pid, signal)
    // A signal that does not end this process (SIGKILL of the child by the system, say) is told as a shell does.
    setTimeout(() => process.exit(128 + (constants.signals[signal] ?? 0)), 100)
  })
}
