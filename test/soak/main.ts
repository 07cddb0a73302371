import { parseArgs } from 'node:util'
import { cellSize } from './fleet.ts'
import { cellsOf, Soak, warmUpOf } from './soak.ts'
import { summaryOf } from './summary.ts'

const usage = `npm run soak -- [options]

A fleet over mutual TLS does to a broker whatever a broker has to bear, and keeps the books on every message.

  --seconds n   how long the load lasts, after a warm-up (600)
  --devices n   how many, in cells of ${cellSize} (500)
  --seed n      of all that is chosen at random; the summary names it
  --log file    keeps the broker's log
  --help

The broker keeps its store below TMPDIR. Where others keep that disk busy for seconds, its deadlines pass and that is a
fault; TMPDIR=/dev/shm tells a slow disk from a slow broker.

Exit code 0: every check held. 1: one did not. 2: wrong options. 130: ended by Ctrl-C, with what was seen until then.
`

function readOptions(): { seconds: number; devices: number; seed: number; log: string | undefined } {
  try {
    const { values } = parseArgs({
      options: {
        seconds: { type: 'string', default: '600' },
        devices: { type: 'string', default: '500' },
        seed: { type: 'string', default: `${Date.now() % 1_000_000}` },
        log: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    })
    if (values.help) {
      process.stdout.write(usage)
      process.exit(0)
    }
    const numberOf = (name: 'seconds' | 'devices' | 'seed'): number => {
      const value = Number(values[name])
      if (!Number.isSafeInteger(value) || value < 1) throw new RangeError(`--${name} ${values[name]}: a whole number`)
      return value
    }
    return { seconds: numberOf('seconds'), devices: numberOf('devices'), seed: numberOf('seed'), log: values.log }
  } catch (error) {
    process.stderr.write(`error: ${(error as Error).message}\n\n${usage}`)
    process.exit(2)
  }
}

const { seconds, devices, seed, log } = readOptions()
const stop = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort())

console.log(
  `${cellsOf(devices) * cellSize} devices, ${warmUpOf(seconds)} s to warm up and ${seconds} s of load, seed ${seed}\n`,
)
const result = await Soak.run({ seconds, devices, seed, log, stop: stop.signal })
const { world } = result
await world[Symbol.asyncDispose]()
console.log(summaryOf(result))
const isStopped = stop.signal.aborted
if (isStopped) console.log(`\nEnded early. npm run soak -- --seed ${seed}`)
process.exit(isStopped ? 130 : world.checks.faults > 0 ? 1 : 0)
