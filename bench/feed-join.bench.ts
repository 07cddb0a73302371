/**
 * A broker that joins a fleet which is there already: told what counts, and told all that ever happened. Enroll runs here, with
 * its registry on disk; the broker's side of the feed, with its snapshot and store, is a process of its own. Both ways in turns.
 *
 *   npm run bench -- feed-join [devices] [renewals] [rounds]
 */
import { fork } from 'node:child_process'
import { hash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { connect } from 'node:tls'
import { BrokerStore } from '../broker/store.ts'
import { Snapshot } from '../broker/trust/snapshot.ts'
import {
  encodeLine,
  type FeedEvent,
  type FeedFact,
  type FromEnroll,
  LineReader,
  startCursor,
} from '../contract/feed.ts'
import { type CertificateRecord, writeCertificate } from '../enroll/registry/certificates.ts'
import { openDatabase } from '../enroll/registry/database.ts'
import { type DeviceRecord, deviceChanged, writeDevice } from '../enroll/registry/devices.ts'
import { Registry } from '../enroll/registry/registry.ts'
import { splitAddress } from '../runtime/config.ts'
import { createLog } from '../runtime/log.ts'
import { EnrollHarness } from '../test/harness/fleet.ts'
import { ms, note, percentile } from './figures.ts'

const devicesAtOnce = 100
const dayMs = 86_400_000
/** As a broker with the default settings says it. */
const forgetsAfterMs = 37 * dayMs
type Way = 'what counts' | 'all that happened'
type Told = { ms: number; cpuMs: number; octets: number; rssMiB: number }

/** Each device renews each month certificates that are good for three; the last one is this month's. */
function lifeOf(
  device: DeviceRecord,
  renewals: number,
  now: number,
): { records: CertificateRecord[]; facts: FeedFact[] } {
  const { id: deviceId, profile } = device
  const facts: FeedFact[] = [deviceChanged(device)]
  const records = Array.from({ length: renewals + 1 }, (_, n): CertificateRecord => {
    const fingerprint = hash('sha256', `${deviceId} ${n}`)
    const issuedAt = new Date(now - (renewals - n) * 30 * dayMs).toISOString()
    const notAfter = new Date(Date.parse(issuedAt) + 90 * dayMs).toISOString()
    const serial = `4a${fingerprint.slice(0, 30)}`
    const named = { serial, fingerprint, deviceId }
    facts.push({ type: 'certificate.issued', data: { ...named, notAfter, via: 'reenroll' } })
    const isOver = n < renewals
    if (isOver) facts.push({ type: 'certificate.revoked', data: { ...named, reason: 'superseded' } })
    return {
      ...{
        ...named,
        kind: 'device',
        profile,
        spkiHash: fingerprint,
        via: 'reenroll',
        der: randomBytes(700).toString('base64'),
      },
      ...{ reservedAt: issuedAt, issuedAt, notBefore: issuedAt, notAfter, firstUsedAt: issuedAt },
      ...(isOver ? { status: 'revoked', revokedAt: issuedAt, revocationReason: 'superseded' } : { status: 'issued' }),
    }
  })
  return { records, facts }
}

async function fill(registry: Registry, devices: number, renewals: number): Promise<void> {
  const now = Date.now()
  for (let from = 0; from < devices; from += devicesAtOnce) {
    const some = Array.from({ length: Math.min(devicesAtOnce, devices - from) }, (_, n): DeviceRecord => {
      const id = `cam-${String(from + n).padStart(6, '0')}`
      return {
        id,
        profile: 'camera',
        groups: [`site-${n % 50}`],
        status: 'active',
        createdAt: new Date(now).toISOString(),
      }
    })
    const lives = some.map((device) => lifeOf(device, renewals, now))
    await registry.commit({
      requestId: `fill-${from}`,
      writes: [
        ...some.map((device) => writeDevice(device, 0)),
        ...lives.flatMap(({ records }) => records.map((record) => writeCertificate(record, 0))),
      ],
      audit: [],
      feed: lives.flatMap(({ facts }) => facts),
      at: new Date(now),
    })
  }
}

/** The broker's side, in a process of its own. */
async function joinFeed(address: string, folder: string, way: Way): Promise<Told> {
  const credential = join(folder, 'services', 'broker')
  const place = mkdtempSync(join(tmpdir(), 'fleetgate-join-'))
  try {
    await using store = await BrokerStore.open(place)
    await using snapshot = await Snapshot.load(store.snapshot, createLog('broker', 'silent'))
    const before = process.cpuUsage()
    const started = performance.now()
    const socket = connect({
      ...splitAddress(address),
      ca: readFileSync(join(folder, 'root.crt')),
      key: readFileSync(join(credential, 'tls.key')),
      cert: readFileSync(join(credential, 'tls.crt')),
      servername: 'enroll.fleetgate.internal',
    })
    await once(socket, 'secureConnect')
    const at = new Date().toISOString()
    const more = way === 'what counts' ? { snapshots: true, forgets: { at, afterMs: forgetsAfterMs } } : {}
    socket.write(encodeLine({ kind: 'hello', protocol: 1, broker: 'broker-1', cursor: startCursor, ...more }))
    snapshot.startOver()
    const lines = new LineReader()
    let octets = 0
    const read = async (): Promise<void> => {
      for await (const chunk of socket.setEncoding('utf8')) {
        octets += chunk.length
        const messages = lines.push(chunk).map((line): FromEnroll => JSON.parse(line))
        const events = messages.flatMap((message): FeedEvent[] => (message.kind === 'event' ? [message] : []))
        if (events.length > 0) snapshot.apply(events)
        for (const message of messages) {
          if (message.kind === 'facts') snapshot.applyFacts(message.facts)
          if (message.kind === 'snapshot') snapshot.continueFrom(message.cursor)
          if (message.kind === 'live') return
        }
      }
    }
    await read()
    await snapshot.reachedHead()
    socket.destroy()
    const { user, system } = process.cpuUsage(before)
    return {
      ms: performance.now() - started,
      cpuMs: (user + system) / 1_000,
      octets,
      rssMiB: process.memoryUsage.rss() / 1_048_576,
    }
  } finally {
    rmSync(place, { recursive: true })
  }
}

async function measure(fleet: EnrollHarness, way: Way): Promise<Told & { enrollCpuMs: number; longestMs: number }> {
  const delay = monitorEventLoopDelay({ resolution: 1 })
  delay.enable()
  const before = process.cpuUsage()
  const child = fork(import.meta.filename, ['join', fleet.endpoints.feed, fleet.dataDir, way])
  const [told] = (await once(child, 'message')) as [Told]
  const { user, system } = process.cpuUsage(before)
  delay.disable()
  return { ...told, enrollCpuMs: (user + system) / 1_000, longestMs: delay.max / 1e6 }
}

if (process.argv[2] === 'join') {
  const [, , , address, folder, way] = process.argv
  process.send!(await joinFeed(address!, folder!, way as Way))
  process.disconnect()
} else {
  const [devices = 100_000, renewals = 12, rounds = 3] = process.argv.slice(2).map(Number)
  await using fleet = await EnrollHarness.start()
  await fleet.close()
  {
    await using registry = new Registry(await openDatabase(join(fleet.dataDir, 'enroll', 'registry')))
    await fill(registry, devices, renewals)
  }
  await fleet.open()
  console.log(`${devices} devices, ${renewals} renewals of each; ${rounds} rounds in turns, medians`)
  const figures = new Map<Way, Awaited<ReturnType<typeof measure>>[]>([
    ['what counts', []],
    ['all that happened', []],
  ])
  for (let round = 0; round < rounds; round++)
    for (const [way, measured] of figures) measured.push(await measure(fleet, way))
  for (const [way, measured] of figures) {
    const median = (of: (one: (typeof measured)[number]) => number): number => percentile(measured.map(of), 50)
    note({ what: `a broker joins ${devices} devices: ${way}`, measured: ms(median((one) => one.ms)) })
    console.log(
      `${way.padEnd(18)} in force after ${ms(median((one) => one.ms))}, ${(median((one) => one.octets) / 1_048_576).toFixed(0)} MiB; ` +
        `CPU of the broker ${ms(median((one) => one.cpuMs))}, of enroll ${ms(median((one) => one.enrollCpuMs))}; ` +
        `its longest turn ${ms(median((one) => one.longestMs))}; broker ${median((one) => one.rssMiB).toFixed(0)} MiB`,
    )
  }
}
