/**
 * Revocation lists and OCSP of a CA with a million revoked certificates, as the enrollment service runs them: registry on disk,
 * publisher and status port in this process, the clients in another.
 *
 * Lists: from the commit of one more revocation to lists that carry it, and the longest turn of the event loop meanwhile; the same
 * for everything on schedule. Bars: 200 ms, 50 ms.
 * OCSP: answers over HTTP for each second of processor time of this process, for certificates that are asked for again (signed
 * once) and with a nonce (signed each time), beside the same without HTTP and servers that answer without looking, one of which
 * signs. Bar: 5,000.
 *
 *   npm run bench -- crl [entries] [rounds] [seconds]
 */
import { fork } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { Agent, createServer, request, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { FeedFact } from '../contract/feed.ts'
import { CrlPublisher } from '../enroll/ca/crl-publisher.ts'
import { DistributionPoints } from '../enroll/ca/distribution-points.ts'
import { OcspResponder } from '../enroll/ca/ocsp-responder.ts'
import { ListReaders } from '../enroll/list-readers.ts'
import { type CertificateRecord, writeCertificate } from '../enroll/registry/certificates.ts'
import { openDatabase } from '../enroll/registry/database.ts'
import { Registry } from '../enroll/registry/registry.ts'
import { writeListRecord } from '../enroll/registry/revocation-lists.ts'
import { createStatus } from '../enroll/status.ts'
import { newSerialNumber } from '../pki/certificate.ts'
import { contextConstructed, element, integer, octetString, oid, sequence } from '../pki/der.ts'
import { writeExtension } from '../pki/extensions.ts'
import { oids } from '../pki/oids.ts'
import { ocspProfile } from '../pki/profile.ts'
import { createLog } from '../runtime/log.ts'
import { createSigner, issueWith, issuingIssuer } from '../test/pki/hierarchy.ts'
import { heading, ms, note, percentile, row } from './figures.ts'

const [entries = 1_000_000, rounds = 20, seconds = 5] = process.argv.slice(2).map(Number)
const connections = 16
const known = 1_000
const shards = 16
const wanted = { signMs: 200, blockedMs: 50, answers: 5_000 }

type Order = { port: number; bodies: string[]; seconds: number }
type Report = { answers: number }

/** The clients, as a child process: POSTs on connections that stay. */
async function load({ port, bodies, seconds: duration }: Order): Promise<Report> {
  const agent = new Agent({ keepAlive: true, maxSockets: connections })
  const requests = bodies.map((body) => Buffer.from(body, 'base64'))
  const until = performance.now() + duration * 1_000
  const report: Report = { answers: 0 }
  const one = (body: Buffer): Promise<void> =>
    new Promise((resolve, reject) => {
      const headers = { 'Content-Type': 'application/ocsp-request', 'Content-Length': body.length }
      request({ port, host: '127.0.0.1', path: '/ocsp', method: 'POST', agent, headers }, (response) => {
        if (response.statusCode !== 200) reject(new Error(`status ${response.statusCode}`))
        response.resume().on('end', () => {
          report.answers++
          resolve()
        })
      })
        .on('error', reject)
        .end(body)
    })
  await Promise.all(
    Array.from({ length: connections }, async (_, at) => {
      for (let i = at; performance.now() < until; i += connections) await one(requests[i % requests.length]!)
    }),
  )
  agent.destroy()
  return report
}

const now = new Date()
const { certificate, signer } = issuingIssuer
const points = new DistributionPoints(certificate, { url: 'http://status.example', shards, hasResponder: true })

function certificateOf(status: 'issued' | 'revoked'): CertificateRecord {
  const serial = newSerialNumber(randomBytes)
  return {
    serial,
    kind: 'device',
    deviceId: `cam-${serial.slice(0, 8)}`,
    profile: 'camera',
    status,
    spkiHash: createHash('sha256').update(serial).digest('hex'),
    reservedAt: now.toISOString(),
    fingerprint: 'f'.repeat(64),
    // About what one is.
    der: 'A'.repeat(820),
    notAfter: new Date(now.getTime() + 30 * 86_400_000).toISOString(),
    distributionPoint: points.assign(serial).distributionPoint,
    via: 'token',
    ...(status === 'revoked' ? { revokedAt: now.toISOString(), revocationReason: 'keyCompromise' } : {}),
  }
}

const revocationOf = ({ serial, fingerprint, deviceId }: CertificateRecord): FeedFact => ({
  type: 'certificate.revoked',
  data: { serial, fingerprint: fingerprint!, deviceId: deviceId!, reason: 'keyCompromise' },
})

function ocspRequest(serial: string, nonce?: Buffer): string {
  const key = createHash('sha256').update(publicKeyBits()).digest()
  const name = createHash('sha256').update(certificate.subject.der).digest()
  const id = sequence(
    sequence(oid(oids.sha256)),
    octetString(name),
    octetString(key),
    integer(Buffer.from(serial, 'hex')),
  )
  const extensions =
    nonce === undefined
      ? []
      : [element(contextConstructed(2), sequence(writeExtension(oids.ocspNonce, octetString(nonce))))]
  return sequence(sequence(sequence(sequence(id)), ...extensions)).toString('base64')
}
// The last 65 octets of the SubjectPublicKeyInfo of a P-256 key are its point.
const publicKeyBits = (): Buffer => certificate.publicKeySpki.subarray(-65)

async function measure(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-crl-'))
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
  await using registry = new Registry(await openDatabase(join(folder, 'registry')))
  const filled = performance.now()
  for (let done = 0; done < entries; done += 1_000) {
    const count = Math.min(1_000, entries - done)
    const writes = Array.from({ length: count }, () => writeCertificate(certificateOf('revoked'), 0))
    await registry.commit({ requestId: `fill-${done}`, writes, audit: [], at: now })
  }
  const good = Array.from({ length: known }, () => certificateOf('issued'))
  await registry.commit({
    requestId: 'fill-good',
    writes: good.map((doc) => writeCertificate(doc, 0)),
    audit: [],
    at: now,
  })
  // As after a first start: what is revoked is in its index. A feed without an event is nobody's.
  const last = certificateOf('revoked')
  await registry.commit({
    requestId: 'fill-lists',
    writes: [writeListRecord(points.name, { number: 0, shards }, 0), writeCertificate(last, 0)],
    audit: [],
    feed: [revocationOf(last)],
    at: now,
  })
  console.log(`${entries} revoked certificates, ${shards} lists; Node ${process.version}`)
  console.log(`registry filled in ${ms(performance.now() - filled)}\n`)

  await measureLists(registry, join(folder, 'lists'))
  await measureOcsp(
    registry,
    good.map(({ serial }) => serial),
  )
}

async function measureLists(registry: Registry, keptIn: string): Promise<void> {
  const turns = new Turns()
  let offset = 0
  const everyMs = 3_600_000
  const publisher = (): CrlPublisher =>
    new CrlPublisher({
      registry,
      issuer: issuingIssuer,
      points,
      everyMs,
      overlapMs: everyMs,
      keptIn,
      clock: () => new Date(now.getTime() + offset),
      log,
      pollMs: 20,
    })
  const carriedBy = (lists: CrlPublisher, feedSeq: number): Promise<number | undefined> =>
    lists.carriedAt(feedSeq, AbortSignal.timeout(600_000))
  const start = async (what: string): Promise<CrlPublisher> => {
    turns.longest()
    const [started, cpu] = [performance.now(), process.cpuUsage()]
    const lists = publisher()
    await carriedBy(lists, 0)
    const { user, system } = process.cpuUsage(cpu)
    const longest = turns.longest()
    console.log(
      `${what}, until all lists are there: ${ms(performance.now() - started)}, ${ms((user + system) / 1_000)} of CPU, ${ms(longest)} in one turn at most`,
    )
    verdict(`longest turn of a ${what}`, longest, wanted.blockedMs)
    return lists
  }
  {
    await using _first = await start('first start')
  }
  const before = process.memoryUsage()
  await using lists = await start('start')
  const carried = (feedSeq: number): Promise<number | undefined> => carriedBy(lists, feedSeq)
  const all = lists.find('all.crl')!
  const shard = lists.find('0.crl')!
  console.log(`the list of all ${mib(all.bytes)}, one of ${shards} ${mib(shard.bytes)}`)
  global.gc?.()
  const after = process.memoryUsage()
  console.log(
    `memory: ${mib(after.rss)} resident, of it ${mib(after.arrayBuffers - before.arrayBuffers)} for the entries; ${mib(after.heapUsed)} heap\n`,
  )

  const signed: number[] = []
  const blocked: number[] = []
  for (let round = 0; round < rounds; round++) {
    const doc = certificateOf('revoked')
    turns.longest()
    const { feedSeq } = await registry.commit({
      requestId: `revoke-${round}`,
      writes: [writeCertificate(doc, 0)],
      audit: [],
      feed: [revocationOf(doc)],
      at: now,
    })
    const committed = performance.now()
    await carried(feedSeq)
    signed.push(performance.now() - committed)
    // The turn that ended it is seen by the timer after it.
    await delay(5)
    blocked.push(turns.longest())
  }
  const scheduled: number[] = []
  const scheduledBlocked: number[] = []
  for (let round = 0; round < Math.min(rounds, 5); round++) {
    const { number } = lists.find('all.crl')!
    turns.longest()
    offset += everyMs
    const begun = performance.now()
    while (lists.find('all.crl')!.number === number || lists.find('all-delta.crl')!.number === number) {
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
    scheduled.push(performance.now() - begun)
    scheduledBlocked.push(turns.longest())
  }
  turns.stop()
  console.log(heading)
  console.log(row('one revocation: commit -> lists carry it', signed))
  console.log(row('  CPU of its longest turn', blocked))
  console.log(row('on schedule: all lists', scheduled))
  console.log(row('  CPU of its longest turn', scheduledBlocked))
  verdict('a revocation is on its lists, p99', percentile(signed, 99), wanted.signMs)
  verdict('longest turn of a revocation', Math.max(...blocked), wanted.blockedMs)
  verdict('longest turn on schedule', Math.max(...scheduledBlocked), wanted.blockedMs)
}

async function measureOcsp(registry: Registry, serials: string[]): Promise<void> {
  const responder = createSigner()
  const by = {
    signer: responder,
    certificate: await issueWith(
      { certificate, signer },
      {
        profile: ocspProfile,
        publicKeySpki: responder.publicKeySpki,
        subjectAltName: {},
        notBefore: now,
        notAfter: new Date(now.getTime() + 86_400_000),
      },
    ),
  }
  const ocsp = new OcspResponder(
    registry,
    [{ authority: certificate, isOf: points.isOf.bind(points), signer: () => by }],
    { validityMs: 3_600_000, isCurrent: () => true },
  )
  await using port = await createStatus({
    settings: { listen: '127.0.0.1:0', url: 'http://status.example', maxAgeMs: 0, maxConnections: 1_000 },
    authorities: new Map(),
    ocsp,
    answered: () => {},
    readers: new ListReaders(),
    clock: () => now,
    log,
  })
  const requests = {
    'signed once': serials.map((serial) => ocspRequest(serial)),
    'each with a nonce': serials.map((serial) => ocspRequest(serial, randomBytes(32))),
  }
  for (const [name, bodies] of Object.entries(requests)) {
    const ders = bodies.map((body) => Buffer.from(body, 'base64'))
    for (const der of ders) await ocsp.answer(der, now)
    let answers = 0
    const rate = await perCpuSecond(async () => {
      for (const until = performance.now() + seconds * 1_000; performance.now() < until; answers++) {
        await ocsp.answer(ders[answers % ders.length]!, now)
      }
      return answers
    })
    console.log(`OCSP without HTTP, ${name}: ${rate} answers per CPU-second`)
  }

  // What no answer with a nonce can be faster than.
  const tbs = Buffer.alloc(250)
  let signatures = 0
  const signing = await perCpuSecond(async () => {
    for (const until = performance.now() + seconds * 1_000; performance.now() < until; signatures++)
      await responder.sign(tbs)
    return signatures
  })
  console.log(`a P-256 signature alone: ${signing} per CPU-second`)
  note({ what: 'a P-256 signature alone', measured: `${signing} a CPU-second` })

  const client = fork(import.meta.filename, ['load'])
  const ask = async (to: number, bodies: string[], duration: number): Promise<number> => {
    client.send({ port: to, bodies, seconds: duration } satisfies Order)
    return ((await once(client, 'message'))[0] as Report).answers
  }
  // What Node takes for a request and an answer of this size, whatever is in it; and for a signature with it.
  await using bare = await serve((response) => response.end(Buffer.alloc(745)))
  await using oneThatSigns = await serve(async (response) => {
    await responder.sign(tbs)
    response.end(Buffer.alloc(745))
  })
  const ports = [port.address.port, bare.port, oneThatSigns.port]
  for (const [name, bodies] of Object.entries(requests)) {
    const rates: number[][] = ports.map(() => [])
    for (let round = 0; round < 6; round++) {
      for (const [at, to] of ports.entries()) {
        await ask(to, bodies, 0.2)
        rates[at]!.push(await perCpuSecond(() => ask(to, bodies, seconds / 3)))
      }
    }
    const [ours, nodes, signed] = rates.map((of) => percentile(of, 50))
    const besides = `a bare server ${nodes}, one that signs ${signed}`
    console.log(`OCSP over HTTP, ${name}: ${ours} answers per CPU-second, ${besides}`)
    note({ what: `OCSP over HTTP, ${name}`, measured: `${ours} answers a CPU-second`, wanted: String(wanted.answers) })
    console.log(`  wanted ${wanted.answers}: ${ours! >= wanted.answers ? 'held' : 'NOT HELD'}`)
  }
  client.disconnect()
}

async function serve(respond: (response: ServerResponse) => unknown): Promise<AsyncDisposable & { port: number }> {
  const server = createServer((message, response) => {
    message.on('data', () => {}).on('end', () => respond(response))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

/**
 * The longest that a timer of a millisecond had to wait for its turn, in CPU time of the thread: others on the machine do not
 * lengthen it. The clock for it goes in steps of 4 ms on some machines.
 */
class Turns {
  #longest = 0
  #last = process.threadCpuUsage()
  readonly #timer = setInterval(() => {
    const { user, system } = process.threadCpuUsage(this.#last)
    this.#last = process.threadCpuUsage()
    this.#longest = Math.max(this.#longest, (user + system) / 1_000)
  }, 1)

  /** in milliseconds, since this was asked before */
  longest(): number {
    const longest = this.#longest
    this.#longest = 0
    return longest
  }

  stop(): void {
    clearInterval(this.#timer)
  }
}

async function perCpuSecond(run: () => Promise<number>): Promise<number> {
  const before = process.cpuUsage()
  const count = await run()
  const { user, system } = process.cpuUsage(before)
  return Math.round(count / ((user + system) / 1e6))
}

const log = createLog('bench', 'silent')
const mib = (bytes: number): string => `${(bytes / 1_048_576).toFixed(1)} MiB`
function verdict(name: string, value: number, most: number): void {
  note({ what: name, measured: ms(value), wanted: `${most} ms` })
  console.log(`${name}: ${ms(value)}, wanted under ${most} ms: ${value < most ? 'held' : 'NOT HELD'}`)
}

if (process.argv[2] === 'load') {
  process.on('message', (order: Order) => {
    void load(order).then((report) => process.send!(report))
  })
} else await measure()
