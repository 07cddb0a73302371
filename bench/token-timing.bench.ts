/**
 * Whether the time of a refusal tells which device ids exist: a wrong token for a device that has one, a wrong token for one that
 * nobody knows, and the token of another device, in turns and in random order, on one connection. What is compared are the
 * times below the 90th percentile of all, as those above are of other work; |t| of Welch's test above 4.5 is a difference.
 *
 *   npm run bench -- token-timing [refusals of each kind]
 */
import { randomBytes, randomInt } from 'node:crypto'
import { Agent } from 'node:https'
import { createKeyAndCsr } from '../pki/x509.ts'
import { EnrollHarness, testConfiguration } from '../test/harness/fleet.ts'
import { note } from './figures.ts'

const each = Number(process.argv[2] ?? 1_500)
await using fleet = await EnrollHarness.start({ config: testConfiguration({ enroll: { attemptsPerMinute: 1e9 } }) })
await fleet.token('cam-1')
const other = await fleet.token('cam-2')
const { csrDer } = await createKeyAndCsr({ commonName: 'cam-1' })
const wrong = (): string => randomBytes(32).toString('base64url')
const kinds: [string, () => [id: string, token: string]][] = [
  ['wrong token, known device', () => ['cam-1', wrong()]],
  ['wrong token, unknown device', () => ['cam-9', wrong()]],
  ['token of another device', () => ['cam-1', other]],
]
const agent = new Agent({ keepAlive: true, maxSockets: 1 })
const times = kinds.map((): number[] => [])
while (times.some((of) => of.length < each)) {
  const kind = randomInt(kinds.length)
  const [id, token] = kinds[kind]![1]()
  const at = performance.now()
  const { status } = await fleet.enroll(id, token, csrDer, { agent })
  if (status !== 401) throw new Error(`answered ${status}`)
  times[kind]!.push(performance.now() - at)
}
agent.destroy()

const limit = times.flat().toSorted((a, b) => a - b)[Math.floor(times.flat().length * 0.9)]!
const figures = times.map((of) => {
  const usual = of.filter((ms) => ms < limit)
  const mean = usual.reduce((sum, ms) => sum + ms, 0) / usual.length
  const variance = usual.reduce((sum, ms) => sum + (ms - mean) ** 2, 0) / (usual.length - 1)
  return { mean, ofMean: variance / usual.length, median: usual.toSorted((a, b) => a - b)[usual.length >> 1]! }
})
console.log(`${'refusal'.padEnd(30)}${'median ms'.padStart(10)}${'mean ms'.padStart(10)}${'t'.padStart(8)}`)
const [first] = figures
for (const [at, { mean, median, ofMean }] of figures.entries()) {
  const t = at === 0 ? 0 : (mean - first!.mean) / Math.sqrt(ofMean + first!.ofMean)
  const numbers = [median, mean].map((ms) => ms.toFixed(3).padStart(10)).join('')
  console.log(`${kinds[at]![0].padEnd(30)}${numbers}${t.toFixed(1).padStart(8)}`)
  if (at > 0)
    note({ what: `refusal: ${kinds[at]![0]}`, measured: `${(mean / first!.mean).toFixed(2)}x of ${kinds[0]![0]}` })
}
