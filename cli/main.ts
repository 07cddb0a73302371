import { closeSync, openSync } from 'node:fs'
import type { Io } from './io.ts'
import { run } from './program.ts'
import { readLine, readSecret } from './secret.ts'

// npm and bin/run.js pass on what the terminal has sent to their whole group, so one Ctrl-C may arrive several times.
const oneCtrlCMs = 250
const hurryAtMostMs = 2_000

let stop: AbortController | undefined
let hangUp: (() => void) | undefined
let outputFailed = false

const io: Io = {
  out: (text) => process.stdout.write(text),
  err: (text) => process.stderr.write(text),
  isTerminal: process.stderr.isTTY === true,
  colour: process.stdout.isTTY === true && process.stdout.hasColors(),
  env: process.env,
  readSecret,
  readLine,
  untilSignal(hurry) {
    const controller = new AbortController()
    stop = controller
    let firstAt: number | undefined
    // A second Ctrl-C must not cut a drain short; the supervisor's own deadline ends what hangs.
    const told = (signal: string): void => {
      firstAt ??= performance.now()
      controller.abort(signal)
      if (hurry === undefined || performance.now() - firstAt < oneCtrlCMs) return
      hurry()
      setTimeout(() => process.exit(1), hurryAtMostMs).unref()
    }
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => told(signal))
    process.on('SIGHUP', () => (hangUp === undefined || isTerminalGone() ? told('SIGHUP') : hangUp()))
    return controller.signal
  },
  onHangUp(act) {
    hangUp = act
  },
}

/** Whoever runs without a terminal has none to lose; a process that had one can open it for as long as it is there. */
function isTerminalGone(): boolean {
  if (![process.stdin, process.stdout, process.stderr].some(({ isTTY }) => isTTY)) return false
  try {
    closeSync(openSync('/dev/tty', 'r'))
    return false
  } catch {
    return true
  }
}

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  const isClosed = error.code === 'EPIPE'
  // `fleetgate device ls | head`: the reader has what it wanted. What runs until it is stopped is stopped in order.
  if (stop === undefined) process.exit(isClosed ? 0 : 1)
  // After a SIGHUP there is no terminal any more to write to.
  outputFailed ||= !isClosed && !stop.signal.aborted
  stop.abort('its reader, who closed the output')
})
// Whoever closed it does not want to be told.
process.stderr.on('error', () => undefined)
const exitCode = await run(process.argv.slice(2), io)
process.exitCode = exitCode === 0 && outputFailed ? 1 : exitCode
