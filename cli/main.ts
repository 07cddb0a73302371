import type { Io } from './io.ts'
import { run } from './program.ts'

const io: Io = {
  out: (text) => process.stdout.write(text),
  err: (text) => process.stderr.write(text),
  isTerminal: process.stderr.isTTY === true,
  colour: process.stdout.isTTY === true && process.stdout.hasColors(),
  env: process.env,
  untilSignal() {
    const stop = new AbortController()
    // A second Ctrl-C must not cut the drain short; the supervisor's own deadline ends what hangs.
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => stop.abort())
    return stop.signal
  },
}

// `fleetgate device ls | head`: the reader has what it wanted.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1))
process.exitCode = await run(process.argv.slice(2), io)
