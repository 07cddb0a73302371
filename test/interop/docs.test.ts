import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { after, type TestContext, test } from 'node:test'
import { type Block, blocksOf, pages } from '../harness/documents.ts'
import { needs, reasonToSkip, root } from './gateway.ts'

const tools = needs('bash', 'npm', 'npx', 'openssl', 'curl', 'mosquitto_pub', 'mosquitto_sub')

/** What lines have to say, beyond ending with 0. */
const said: Record<string, RegExp[]> = {
  'README.md: demo': [/revoked/],
  'README.md: enroll': [/subject.*CN ?= ?cam-1/, /broker-1 +mqtts +admitted +valid/],
  'README.md: revoke': [/in force +on 1 of 1/, /Connection Refused: not authorised\./, /certificate_revoked/],
  'README.md: explain': [/device_revoked/, /does not admit cam-1\.crt/],
  'README.md: policy': [/allow/],
  'docs/policy.md: change': [/8 passed, 0 failed/],
}

const isTaken = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })

/** The lines name the default ports, so another gateway on this machine would be spoken to instead. */
async function portInUse(): Promise<number | undefined> {
  for (const port of [8443, 8883, 9443, 9444]) if (await isTaken(port)) return port
  return undefined
}

/** A folder that is to npm and npx what a checkout is, with no data in it yet. */
function makeCheckout(folder: string): void {
  for (const name of ['package.json', 'bin']) symlinkSync(join(root, name), join(folder, name))
  mkdirSync(join(folder, 'node_modules/.bin'), { recursive: true })
  symlinkSync(join(root, 'bin', 'fleetgate.js'), join(folder, 'node_modules/.bin/fleetgate'))
}

/** To a process and all that it has started, where there still is one. */
function signalGroup(leader: ChildProcess, signal: NodeJS.Signals): void {
  try {
    process.kill(-leader.pid!, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/** A terminal for each block, in one folder. */
class Terminals implements AsyncDisposable {
  readonly folder: string
  readonly env: NodeJS.ProcessEnv
  readonly #going: ChildProcess[] = []

  constructor(folder: string) {
    this.folder = folder
    const path = [join(folder, 'node_modules/.bin'), process.env.PATH].join(delimiter)
    this.env = { ...process.env, PATH: path }
    after(() => {
      for (const child of this.#going) signalGroup(child, 'SIGKILL')
    })
  }

  /** @returns what the lines have said. @throws Error when they fail, or end before they have said `until` */
  async run(lines: string, until?: string): Promise<string> {
    const child = spawn('bash', ['-euo', 'pipefail', '-c', lines], {
      cwd: this.folder,
      env: this.env,
      stdio: ['ignore', 'pipe', 'pipe'],
      // What is to be stopped is npm with all that it has started.
      detached: true,
    })
    this.#going.push(child)
    let text = ''
    const ended = once(child, 'close').then(([code]) => {
      this.#going.splice(this.#going.indexOf(child), 1)
      if (code !== 0 || until !== undefined) throw new Error(`ended with ${code}:\n${text}`)
    })
    const ready = Promise.withResolvers<void>()
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk
        if (until !== undefined && text.includes(until)) ready.resolve()
      })
    }
    await Promise.race([ended, ready.promise])
    ended.catch(() => undefined)
    return text
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(
      this.#going.map((child) => {
        const closed = once(child, 'close')
        signalGroup(child, 'SIGINT')
        return closed
      }),
    )
  }
}

async function runPage(t: TestContext, file: string, terminals: Terminals): Promise<void> {
  for (const { line, text, running } of blocksOf(file).filter(isRunHere)) {
    await t.test(`${file}:${line} ${running.name}`, async () => {
      const out = await terminals.run(text, running.until)
      for (const words of said[`${file}: ${running.name}`] ?? []) assert.match(out, words)
    })
  }
}

const isRunHere = (block: Block): block is Block & { running: { how: 'here'; name: string; until?: string } } =>
  block.running?.how === 'here'

/** What a page supposes to be there, as lines for the terminal. */
const before: Record<string, string> = {
  'docs/devices.md': 'npx fleetgate token create --device cam-2 --profile camera --quiet > token',
  'docs/policy.md': 'npx fleetgate device create cam-7 --profile camera --attribute site=berlin',
}

test(
  'README leads from an empty folder to a device that is cut off, and the other pages go on from there',
  tools,
  async (t) => {
    const taken = await portInUse()
    if (taken !== undefined) return t.skip(reasonToSkip(`port ${taken} is in use on this machine`))
    const folder = mkdtempSync(join(tmpdir(), 'fleetgate-interop-'))
    try {
      makeCheckout(folder)
      await using terminals = new Terminals(folder)
      await runPage(t, 'README.md', terminals)

      const { rootFingerprint } = JSON.parse(readFileSync(join(folder, 'data', 'endpoints.json'), 'utf8'))
      terminals.env.FINGERPRINT = rootFingerprint
      const yaml = blocksOf('docs/policy.md').map(({ text }) => text)
      for (const [name, file] of [
        ['policy', 'new-policy'],
        ['expectations', 'expectations'],
      ]) {
        writeFileSync(join(folder, `${file}.yaml`), yaml.find((text) => text.startsWith(`# ${name}.yaml\n`))!)
      }
      for (const file of pages.filter((page) => page !== 'README.md' && blocksOf(page).some(isRunHere))) {
        await terminals.run(before[file] ?? ':')
        await runPage(t, file, terminals)
      }
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  },
)
