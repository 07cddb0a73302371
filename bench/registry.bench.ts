/**
 * A registry of a million devices: how long enroll takes to start with it, what a page of a list takes to be answered over the
 * admin API, filtered or not, and what the process then has in memory. Wanted: a start under 3 s, each page under 50 ms; of a
 * page that is judged by CPU time, which other programs on the machine change less than the clock's.
 *
 *   npm run bench -- registry [devices] [certificates]
 */
import { spawnSync } from 'node:child_process'
import { Agent } from 'node:https'
import { join } from 'node:path'
import { type CertificateRecord, writeCertificate } from '../enroll/registry/certificates.ts'
import { openDatabase } from '../enroll/registry/database.ts'
import { type DeviceRecord, deviceChanged, writeDevice } from '../enroll/registry/devices.ts'
import { Registry } from '../enroll/registry/registry.ts'
import { EnrollHarness } from '../test/harness/fleet.ts'
import { heading, ms, note, percentile, row } from './figures.ts'

const [devices = 1_000_000, certificates = 100_000] = process.argv.slice(2, 4).map(Number)
const folderToFill = process.argv[4]
const wanted = { startMs: 3_000, pageMs: 50 }
const rounds = 30
const perCommit = 1_000
const at = new Date('2026-01-01T00:00:00Z')
const verdict = (isHeld: boolean): string => (isHeld ? 'held' : 'NOT HELD')

const idOf = (n: number): string => `cam-${String(n).padStart(7, '0')}`
const deviceOf = (n: number): DeviceRecord => ({
  id: idOf(n),
  profile: ['camera', 'sensor', 'service'][n % 3]!,
  groups: [`hall-${n % 100}`, ...(n % 100_000 === 7 ? ['rare'] : [])],
  attributes: { site: n % 200_000 === 11 ? 'elsewhere' : 'berlin' },
  status: n % 100 === 0 ? 'revoked' : 'active',
  createdAt: at.toISOString(),
  ...(n % 100 === 0 ? { revokedAt: at.toISOString(), revocationReason: 'superseded' } : {}),
})
const serialOf = (n: number): string => `0a${String(n).padStart(12, '0')}`
const certificateOf = (n: number): CertificateRecord => ({
  serial: serialOf(n),
  kind: 'device',
  deviceId: idOf(n),
  profile: 'camera',
  status: 'issued',
  spkiHash: 'ab'.repeat(32),
  reservedAt: at.toISOString(),
  fingerprint: 'cd'.repeat(32),
  subject: `CN=${idOf(n)}`,
  issuedAt: at.toISOString(),
  notBefore: at.toISOString(),
  notAfter: new Date(at.getTime() + (30 + (n % 365)) * 86_400_000).toISOString(),
  via: 'token',
})

async function fill(folder: string): Promise<void> {
  await using registry = new Registry(await openDatabase(join(folder, 'enroll', 'registry')))
  for (let from = 0; from < Math.max(devices, certificates); from += perCommit) {
    const numbers = Array.from({ length: perCommit }, (_, n) => from + n)
    const made = numbers.filter((n) => n < devices).map(deviceOf)
    const issued = numbers.filter((n) => n < certificates).map(certificateOf)
    await registry.commit({
      requestId: `fill-${from}`,
      writes: [...made.map((doc) => writeDevice(doc, 0)), ...issued.map((doc) => writeCertificate(doc, 0))],
      // The ends of both logs are what a start looks at.
      audit: made.slice(0, 20).map(({ id }) => ({
        action: 'device.created',
        actor: 'operator:bench',
        subject: `device:${id}`,
        outcome: 'done',
        requestId: `fill-${id}`,
      })),
      feed: made.slice(0, 20).map(deviceChanged),
      at,
    })
    if (from % 100_000 === 0) process.stderr.write(`\r${from} of ${devices}`)
  }
  process.stderr.write('\r')
}

type Page = { items: object[]; next?: string | number }

async function measure(
  fleet: EnrollHarness,
  agent: Agent,
  path: string,
): Promise<{ samples: number[]; cpuMs: number; found: number }> {
  const before = process.cpuUsage()
  const samples: number[] = []
  let found = 0
  let cursor: string | number | undefined
  for (let page = 0; page < rounds; page++) {
    const begun = performance.now()
    const more = cursor === undefined ? '' : `&${path.startsWith('/audit') ? 'after' : 'cursor'}=${cursor}`
    const answer = await fleet.ask(`${fleet.endpoints.admin}/v1${path}${more}`, { agent })
    samples.push(performance.now() - begun)
    if (answer.status !== 200) throw new Error(answer.body)
    const body: Page = JSON.parse(answer.body)
    found += body.items.length
    cursor = body.next
    if (cursor === undefined) break
  }
  const { user, system } = process.cpuUsage(before)
  return { samples, cpuMs: (user + system) / 1_000 / samples.length, found }
}

if (folderToFill !== undefined) {
  await fill(folderToFill)
  process.exit(0)
}
await using fleet = await EnrollHarness.start()
await fleet.close()
// By a process of its own, whose memory is not counted.
spawnSync(process.execPath, [import.meta.filename, `${devices}`, `${certificates}`, fleet.dataDir], {
  stdio: 'inherit',
})

const starts: number[] = []
for (let round = 0; round < 3; round++) {
  const begun = performance.now()
  await fleet.open()
  starts.push(performance.now() - begun)
  if (round < 2) await fleet.close()
}
console.log(`${devices} devices, ${certificates} certificates`)
console.log(`${heading}       CPU`)
console.log(row('start of the enrollment service', starts))
console.log(`  ${verdict(percentile(starts, 50) < wanted.startMs)}: under ${ms(wanted.startMs)}`)
note({ what: `start with ${devices} devices`, measured: ms(percentile(starts, 50)), wanted: `${wanted.startMs} ms` })
const agent = new Agent({ keepAlive: true, ca: fleet.root, ...fleet.operator })
let slowest = 0
for (const path of [
  '/devices?limit=100',
  '/devices?limit=1000',
  '/devices?limit=100&profile=camera',
  '/devices?limit=100&group=hall-7',
  '/devices?limit=100&group=rare',
  '/devices?limit=100&status=revoked',
  '/devices?limit=100&group=hall-7&status=revoked',
  '/devices?limit=100&profile=camera&status=revoked',
  '/devices?limit=100&attribute=site%3Delsewhere',
  '/devices?limit=100&createdFrom=2027-01-01T00:00:00Z',
  '/certificates?limit=100',
  '/certificates?limit=100&expiresInMs=31536000000',
  `/certificates?limit=100&fingerprint=${'ef'.repeat(32)}`,
  '/audit?limit=100',
  '/audit?limit=100&subject=device:cam-0000001',
]) {
  await measure(fleet, agent, path)
  const { samples, cpuMs, found } = await measure(fleet, agent, path)
  slowest = Math.max(slowest, cpuMs)
  console.log(`${row(path, samples)}${ms(cpuMs).padStart(10)}  ${samples.length} pages, ${found} found`)
}
console.log(
  `  ${verdict(slowest < wanted.pageMs)}: a page of each list takes the CPU under ${ms(wanted.pageMs)}, client included`,
)
const { rss, heapUsed } = process.memoryUsage()
console.log(
  `resident memory ${Math.round(rss / 1_048_576)} MiB, of it ${Math.round(heapUsed / 1_048_576)} MiB JavaScript`,
)
agent.destroy()
