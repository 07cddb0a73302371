/**
 * Mutated requests against a real EST service over real sockets: whatever is sent, there is an answer and it is no 5xx, the
 * service goes on, and its memory stays flat.
 *
 *   npm run fuzz -- est [--seconds 60] [--seed 1]
 */
import { createPublicKey, sign } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import { estOperations } from '../../contract/configuration.ts'
import {
  bitString,
  contextConstructed,
  element,
  integer,
  octetString,
  oid,
  readDer,
  sequence,
  setOf,
  utf8String,
} from '../../pki/der.ts'
import { buildName } from '../../pki/names.ts'
import { oids } from '../../pki/oids.ts'
import { createKeyAndCsr } from '../../pki/x509.ts'
import { cmcOids, cmcRequest, pkiData } from '../harness/cmc.ts'
import { csrWithAttributes, csrWithChallenge, keyEncryption } from '../harness/csr-vectors.ts'
import { basic, type DeviceKeys, EnrollHarness, testConfiguration } from '../harness/fleet.ts'
import { RawEst } from '../harness/raw-est.ts'

export type Sent = { credential: 'none' | 'token' | 'wrong' | 'certificate'; head: string[]; body: Buffer }
export type FuzzResult = { requests: number; statuses: Map<string, number>; heapGrowthBytes: number }

/** Every request is whole, so one that has no answer after this has none. */
const patienceMs = 60_000
/** What caches and compiled code may still take after a third of a run. */
const maxGrowthBytes = 16 * 1_048_576

type Service = { fleet: EnrollHarness; device: DeviceKeys; authorization: string }

/** A service with every operation switched on and limits that no run reaches, so that bodies come to be read. */
export async function startService(): Promise<Service> {
  const fleet = await EnrollHarness.start({
    config: testConfiguration({
      profiles: {
        camera: { serverKeygen: 'clear', keyTypes: ['P-256', 'P-384', 'Ed25519'] },
        kiosk: { evidence: ['approval'], serverKeygen: 'clear' },
      },
      labels: { cameras: { profile: 'camera' }, kiosks: { profile: 'kiosk' } },
      enroll: { attemptsPerMinute: 1e9, renewalsPerHour: 1e9 },
    }),
  })
  const device = await fleet.enrolledDevice('cam-2')
  return { fleet, device, authorization: basic('cam-1', await fleet.token('cam-1')) }
}

/** Puts the credential in and sends. @returns the status line, or how the connection ended without one */
export async function send(
  { fleet, device, authorization }: Service,
  { credential, head, body }: Sent,
): Promise<string> {
  const own = credential === 'token' ? authorization : credential === 'wrong' ? basic('cam-1', 'x') : undefined
  const lines = own === undefined ? head : [...head, `Authorization: ${own}`]
  const bytes = Buffer.concat([Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1'), body])
  await using connection = await RawEst.open(fleet, credential === 'certificate' ? device : undefined)
  return await connection.exchange(bytes, patienceMs)
}

/** @throws what fast-check shrank a failing request to */
export async function fuzzEst(
  service: Service,
  options: { runs: number; seconds: number; seed: number },
): Promise<FuzzResult> {
  const { runs, seconds, seed } = options
  const statuses = new Map<string, number>()
  const requests = await sentRequests(service)
  let count = 0
  let heapBefore = 0
  const startedAt = performance.now()
  await fc.assert(
    fc.asyncProperty(fc.array(requests, { minLength: 1, maxLength: 8 }), async (several) => {
      // Measured from a third of the run on: what is compiled and cached in the beginning stays.
      if (heapBefore === 0 && performance.now() - startedAt > seconds * 333) heapBefore = await heapBytes()
      const answers = await Promise.all(several.map((request) => send(service, request)))
      count += answers.length
      for (const answer of answers) statuses.set(answer, (statuses.get(answer) ?? 0) + 1)
      const failed = answers.findIndex((answer) => answer.startsWith('5') || answer === 'waiting')
      if (failed >= 0) throw new Error(`${answers[failed]} for ${JSON.stringify(show(several[failed]!))}`)
    }),
    { numRuns: runs, seed, interruptAfterTimeLimit: seconds * 1_000, endOnFailure: false },
  )
  // It still serves.
  if ((await service.fleet.est('cacerts')).status !== 200) throw new Error('cacerts is not served after the run')
  return { requests: count, statuses, heapGrowthBytes: (await heapBytes()) - heapBefore }
}

const show = ({ credential, head, body }: Sent) => ({ credential, head, body: body.toString('base64') })

async function sentRequests({ fleet, device }: Service): Promise<fc.Arbitrary<Sent>> {
  const { privateKeyPem: key, csrDer } = await createKeyAndCsr({ commonName: 'cam-1' })
  const renewal = await fleet.renewalCsr(device)
  const nonce: [string, Buffer] = [cmcOids.senderNonce, octetString(Buffer.alloc(8))]
  const folder = new URL('../vectors/csr/', import.meta.url)
  const vectors = readdirSync(folder).map(
    (file) => JSON.parse(readFileSync(new URL(file, folder), 'utf8')).der as string,
  )
  const { privateKeyPem: kioskKey, csrDer: kioskCsr } = await createKeyAndCsr({ commonName: 'kiosk-1' })
  const sources = [
    csrDer,
    kioskCsr,
    renewal,
    csrWithChallenge('cam-1', 'secret'),
    csrWithAttributes('cam-1', ...keyEncryption(Buffer.alloc(20), ['1.2.840.113549.3.7'])),
    cmcRequest({ csrDer, key, controls: [nonce] }),
    cmcRequest({ csrDer: renewal, key: device.key, certificate: device.certificate }),
    ...vectors.map((der) => Buffer.from(der, 'base64')),
  ]
  const changes = fc.oneof(
    { weight: 1, arbitrary: fc.constant<Change[]>([]) },
    { weight: 7, arbitrary: fc.array(change, { maxLength: 4 }) },
  )
  const broken = fc.tuple(fc.constantFrom(...sources), changes).map(mutate)
  // With a signature that fits what was changed, so that it comes past the proof of possession.
  const signed = fc.oneof(
    fc
      .tuple(
        fc.constantFrom<[Buffer, string][]>(
          [csrDer, key],
          [renewal, device.key],
          [kioskCsr, kioskKey],
          [csrWithNames(key), key],
        ),
        changes,
      )
      .map(([[der, by], these]) => signedAgain(mutate([infoOf(der), these]), by)),
    fc
      .tuple(fc.constantFrom(pkiData({ csrDer, key, controls: [nonce] }), pkiData({ csrDer: renewal, key })), changes)
      .map(([data, these]) => cmcRequest({ csrDer, key, data: mutate([data, these]) })),
    fc
      .tuple(fc.constant(pkiData({ csrDer: renewal, key, controls: [nonce] })), changes)
      .map(([data, these]) =>
        cmcRequest({ csrDer, key: device.key, certificate: device.certificate, data: mutate([data, these]) }),
      ),
  )
  const der = fc.oneof({ weight: 1, arbitrary: broken }, { weight: 1, arbitrary: signed })
  const base64 = fc
    .tuple(der, fc.array(change, { maxLength: 2 }), fc.constantFrom('one line', 'lines', 'armour'))
    .map(([bytes, changes, form]) => mutate([Buffer.from(written(bytes, form), 'latin1'), changes]))
  const body = fc.oneof(
    { weight: 12, arbitrary: der.map((bytes) => Buffer.from(bytes.toString('base64'))) },
    { weight: 4, arbitrary: base64 },
    { weight: 1, arbitrary: der },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 300 }).map((octets) => Buffer.from(octets)) },
  )
  const path = fc.oneof(
    { weight: 12, arbitrary: fc.constantFrom('simpleenroll', 'simplereenroll', 'serverkeygen', 'fullcmc') },
    { weight: 1, arbitrary: fc.constantFrom<string>(...estOperations) },
    { weight: 1, arbitrary: fc.constantFrom(...estOperations).map((name) => `cameras/${name}`) },
    {
      weight: 2,
      arbitrary: fc.constantFrom('simpleenroll', 'serverkeygen', 'fullcmc').map((name) => `kiosks/${name}`),
    },
    { weight: 1, arbitrary: fc.webPath() },
    { weight: 1, arbitrary: fc.string({ maxLength: 40 }) },
  )
  const header: fc.Arbitrary<[string, string]> = fc.oneof(
    fc.tuple(
      fc.constantFrom('Content-Type', 'Accept', 'Authorization', 'User-Agent', 'X'),
      fc.string({ maxLength: 60 }),
    ),
    fc.constantFrom<[string, string][]>(
      ['Content-Type', 'application/pkcs10; charset="utf-8"'],
      ['Content-Transfer-Encoding', 'base64'],
      ['Transfer-Encoding', 'chunked'],
      ['Content-Length', '5'],
      ['Expect', '100-continue'],
      ['Authorization', 'Basic Og=='],
      ['Authorization', 'Basic Y2FtLTE6//8='],
      ['Authorization', 'Digest username="cam-1"'],
      ['User-Agent', 'libest 3.2.0p'],
      ['Host', 'g'],
      ['Transfer-Encoding', 'gzip, chunked'],
      ['Upgrade', 'h2c'],
      ['Connection', 'Upgrade, close'],
    ),
  )
  return fc
    .record({
      method: fc.oneof(
        { weight: 9, arbitrary: fc.constant('POST') },
        { weight: 1, arbitrary: fc.constantFrom('GET', 'PUT', 'HEAD') },
      ),
      target: fc.tuple(
        fc.oneof(
          { weight: 20, arbitrary: fc.constant('') },
          { weight: 1, arbitrary: fc.constantFrom('https://127.0.0.1', 'HTTP://h', 'https://') },
        ),
        path,
      ),
      credential: fc.constantFrom<Sent['credential'][]>(
        'token',
        'token',
        'token',
        'certificate',
        'certificate',
        'wrong',
        'none',
      ),
      more: fc.oneof(
        { weight: 3, arbitrary: fc.constant<[string, string][]>([]) },
        { weight: 1, arbitrary: fc.array(header, { maxLength: 3 }) },
      ),
      body,
    })
    .map(({ method, target: [origin, name], credential, more, body: octets }) => {
      const type = name.endsWith('fullcmc') ? 'application/pkcs7-mime; smime-type=CMC-request' : 'application/pkcs10'
      const head = [
        `${method} ${origin}/.well-known/est/${name} HTTP/1.1`,
        'Host: h',
        ...more.map(([field, value]) => `${field}: ${value}`),
        `Content-Type: ${type}`,
        `Content-Length: ${octets.length}`,
      ]
      return { credential, head, body: octets }
    })
}

type Change = { kind: 'flip' | 'set' | 'insert' | 'remove' | 'repeat' | 'cut'; at: number; value: number }
const change: fc.Arbitrary<Change> = fc.record({
  kind: fc.constantFrom<Change['kind'][]>('flip', 'set', 'insert', 'remove', 'repeat', 'cut'),
  at: fc.nat({ max: 4_000 }),
  value: fc.oneof(fc.constantFrom(0x00, 0x01, 0x30, 0x31, 0x7f, 0x80, 0x82, 0xa0, 0xff), fc.nat({ max: 255 })),
})

function mutate([source, changes]: [Buffer, Change[]]): Buffer {
  let bytes = Buffer.from(source)
  for (const { kind, at: anywhere, value } of changes) {
    const at = anywhere % (bytes.length + 1)
    const [left, right] = [bytes.subarray(0, at), bytes.subarray(at)]
    if (kind === 'cut') bytes = Buffer.from(left)
    else if (kind === 'insert') bytes = Buffer.concat([left, Buffer.of(value), right])
    else if (kind === 'remove') bytes = Buffer.concat([left, right.subarray(1 + (value % 4))])
    else if (kind === 'repeat') bytes = Buffer.concat([left, right.subarray(0, value % 32), right])
    else if (at < bytes.length) bytes[at] = kind === 'set' ? value : bytes[at]! ^ (1 << (value % 8))
  }
  return bytes
}

/** CertificationRequestInfo, which is what a request signs. */
const infoOf = (csr: Buffer): Buffer => readDer(csr, csr.length).enter().next().der

const signedAgain = (info: Buffer, key: string): Buffer =>
  sequence(info, sequence(oid(oids.ecdsaWithSha256)), bitString(sign('sha256', info, key)))

/** A request with everything in it that is read. */
function csrWithNames(key: string): Buffer {
  const spki = createPublicKey(key).export({ format: 'der', type: 'spki' })
  const attribute = (type: string, value: Buffer): Buffer => sequence(oid(type), setOf(value))
  const name = sequence(oid(oids.subjectAltName), octetString(sequence(element(0x82, Buffer.from('cam-1')))))
  const info = sequence(
    integer(0),
    buildName({ commonName: 'cam-1', organizationalUnits: ['roof'] }),
    spki,
    element(
      contextConstructed(0),
      attribute(oids.extensionRequest, sequence(name)),
      attribute(oids.challengePassword, utf8String('secret')),
      ...keyEncryption(Buffer.alloc(20), ['2.16.840.1.101.3.4.1.42']),
    ),
  )
  return signedAgain(info, key)
}

function written(der: Buffer, form: string): string {
  const base64 = der.toString('base64')
  if (form === 'one line') return base64
  const lines = base64.replaceAll(/.{64}(?=.)/g, '$&\r\n')
  return form === 'lines' ? lines : `-----BEGIN CERTIFICATE REQUEST-----\n${lines}\n-----END CERTIFICATE REQUEST-----\n`
}

/** Sockets that were just destroyed hold native memory until they have closed and were collected, which takes a few turns. */
async function heapBytes(): Promise<number> {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc')
  for (let turn = 0; turn < 4; turn++) {
    await sleep(50)
    collect()
  }
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { seconds: { type: 'string' }, seed: { type: 'string' } } })
  const seconds = Number(values.seconds ?? 60)
  const seed = Number(values.seed ?? 1)
  const service = await startService()
  await using _fleet = service.fleet
  const { requests, statuses, heapGrowthBytes } = await fuzzEst(service, { runs: 1e9, seconds, seed })
  console.log(`${requests} requests in ${seconds} s, seed ${seed}`)
  for (const [status, count] of [...statuses].sort()) console.log(`  ${String(count).padStart(8)}  ${status}`)
  if (heapGrowthBytes > maxGrowthBytes) process.exitCode = 1
  console.log(
    `memory after garbage collection: ${(heapGrowthBytes / 1_048_576).toFixed(1)} MiB more than after a third`,
  )
}
