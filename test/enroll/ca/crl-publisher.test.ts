import 'reflect-metadata'
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { X509Crl, X509CrlReason } from '@peculiar/x509'
import type { DeviceStatus, FeedFact } from '../../../contract/feed.ts'
import type { StatusReason } from '../../../contract/ids.ts'
import { CrlPublisher } from '../../../enroll/ca/crl-publisher.ts'
import { DistributionPoints } from '../../../enroll/ca/distribution-points.ts'
import { OcspResponder } from '../../../enroll/ca/ocsp-responder.ts'
import { type CertificateRecord, writeCertificate } from '../../../enroll/registry/certificates.ts'
import type { Registry } from '../../../enroll/registry/registry.ts'
import type { SignedList } from '../../../pki/crl.ts'
import { integer, sequence } from '../../../pki/der.ts'
import type { Signer } from '../../../pki/keystore.ts'
import { issuerIds } from '../../../pki/ocsp.ts'
import { createLog } from '../../../runtime/log.ts'
import { movableClock } from '../../harness/fleet.ts'
import { after, day, issuingIssuer, now } from '../../pki/hierarchy.ts'
import { withRegistry } from '../registry/with-registry.ts'

const points = (shards: number): DistributionPoints =>
  new DistributionPoints(issuingIssuer.certificate, { url: 'http://s.test', shards, hasResponder: true })
const everyMs = 3_600_000
const overlapMs = 2 * everyMs

const record = (serial: string, more: Partial<CertificateRecord> = {}): CertificateRecord => ({
  serial,
  kind: 'device',
  deviceId: 'cam-1',
  profile: 'camera',
  status: 'issued',
  spkiHash: '00',
  reservedAt: now.toISOString(),
  notAfter: after(30 * day).toISOString(),
  distributionPoint: `${points(1).name}/0`,
  via: 'token',
  ...more,
})
const ended = (reason: StatusReason) =>
  ({
    status: reason === 'certificateHold' ? 'held' : 'revoked',
    revokedAt: now.toISOString(),
    revocationReason: reason,
  }) as const

let commits = 0
async function put(registry: Registry, docs: CertificateRecord[], feed: FeedFact[] = []): Promise<number> {
  const requestId = `test-${commits++}`
  const at = new Date(now.getTime() + commits)
  const writes = docs.map(({ serial, ...doc }) => ({
    ...writeCertificate({ serial, ...doc }, 0),
    expect: undefined as never,
  }))
  const { feedSeq } = await registry.commit({ requestId, writes, audit: [], feed, at })
  return feedSeq
}
const revoked = (serial: string): FeedFact => ({
  type: 'certificate.revoked',
  data: { serial, fingerprint: 'f'.repeat(64), deviceId: 'cam-1', reason: 'keyCompromise' },
})
const deviceIs = (status: DeviceStatus): FeedFact => ({
  type: 'device.changed',
  data: { id: 'cam-1', profile: 'camera', groups: [], status },
})

type Options = { shards?: number; clock?: () => Date; signer?: Signer; keptIn?: string }
function publisher(registry: Registry, options: Options = {}) {
  const lists = new CrlPublisher({
    registry,
    issuer: { certificate: issuingIssuer.certificate, signer: options.signer ?? issuingIssuer.signer },
    points: points(options.shards ?? 2),
    everyMs,
    overlapMs,
    ...(options.keptIn === undefined ? {} : { keptIn: options.keptIn }),
    clock: options.clock ?? (() => now),
    log: createLog('enroll', 'silent'),
    pollMs: 5,
  })
  return Object.assign(lists, {
    carries: async (feedSeq: number): Promise<number> => (await lists.carriedAt(feedSeq, AbortSignal.timeout(60_000)))!,
  })
}

/** Nobody tells of a schedule. */
async function until(isSo: () => boolean): Promise<void> {
  for (const end = Date.now() + 60_000; !isSo(); ) {
    if (Date.now() > end) throw new Error('it did not come to pass')
    await delay(2)
  }
}

const read = (list: SignedList | undefined): X509Crl => new X509Crl(Uint8Array.from(Buffer.concat(list!.parts)))
const entries = (list: SignedList | undefined): Record<string, X509CrlReason | undefined> =>
  Object.fromEntries(read(list).entries.map(({ serialNumber, reason }) => [serialNumber, reason]))
const { keyCompromise, certificateHold, removeFromCRL, superseded } = X509CrlReason

test('a start puts on the lists who is revoked already: all of them on one, and each on the one that it names', () =>
  withRegistry(async (registry) => {
    const { name } = points(1)
    await put(registry, [
      record('01', ended('keyCompromise')),
      record('02', { ...ended('superseded'), distributionPoint: `${name}/1` }),
      record('03', { ...ended('certificateHold'), distributionPoint: `${name}/4` }),
      // Services, and devices from before there were lists, name none.
      record('04', { ...ended('keyCompromise'), distributionPoint: undefined as never }),
      record('05', { ...ended('keyCompromise'), distributionPoint: 'ffffffff/0' }),
      record('06'),
      // Another CA's, and not ours to say anything about.
      record('f0', { ...ended('keyCompromise'), kind: 'foreign', distributionPoint: undefined as never }),
      record('07', { status: 'reserved' }),
    ])
    await using lists = publisher(registry)
    const number = await lists.carries(0)
    assert.deepEqual(entries(lists.find('all.crl')), {
      '01': keyCompromise,
      '02': superseded,
      '03': certificateHold,
      '04': keyCompromise,
    })
    assert.deepEqual(entries(lists.find('0.crl')), { '01': keyCompromise })
    assert.deepEqual(entries(lists.find('1.crl')), { '02': superseded })
    // A certificate named it when there were more of them.
    assert.deepEqual(entries(lists.find('4.crl')), { '03': certificateHold })
    assert.equal(lists.find('5.crl'), undefined)
    for (const file of ['all.crl', '0.crl', '3.crl', 'all-delta.crl', '2-delta.crl']) {
      const { nextUpdate, thisUpdate } = lists.find(file)!
      assert.deepEqual([lists.find(file)!.number, thisUpdate, nextUpdate], [number, now, after(everyMs + overlapMs)])
    }
  }))

test('a revocation is on its list, its delta and the list of all at once, with a greater number; others stay', () =>
  withRegistry(async (registry) => {
    await put(registry, [record('01')])
    await using lists = publisher(registry)
    const first = await lists.carries(0)
    const other = lists.find('1.crl')
    const feedSeq = await put(registry, [record('01', ended('keyCompromise'))], [revoked('01')])
    const number = await lists.carries(feedSeq)
    assert.ok(number > first)
    for (const file of ['0.crl', '0-delta.crl', 'all.crl', 'all-delta.crl']) {
      assert.deepEqual([entries(lists.find(file)), lists.find(file)!.number], [{ '01': keyCompromise }, number], file)
    }
    assert.equal(lists.find('1.crl'), other)
    assert.equal(await lists.carries(feedSeq), number)
    assert.equal(await lists.carriedAt(feedSeq + 1, AbortSignal.timeout(1)), undefined)
  }))

test('what is held is on hold, and when it is released the next delta takes it from the list', () =>
  withRegistry(async (registry) => {
    await put(registry, [record('01'), record('02')])
    await using lists = publisher(registry)
    await lists.carries(0)
    const held = ['01', '02'].map((serial) => record(serial, ended('certificateHold')))
    await lists.carries(await put(registry, held, [deviceIs('held')]))
    assert.deepEqual(entries(lists.find('all.crl')), { '01': certificateHold, '02': certificateHold })
    await lists.carries(await put(registry, [record('01'), record('02')], [deviceIs('active')]))
    assert.deepEqual(entries(lists.find('all.crl')), {})
    assert.deepEqual(entries(lists.find('0-delta.crl')), { '01': removeFromCRL, '02': removeFromCRL })
    // Held again and then revoked for good.
    await lists.carries(await put(registry, held, [deviceIs('held')]))
    const gone = held.map((doc) => ({ ...doc, ...ended('keyCompromise') }))
    await lists.carries(await put(registry, gone, [deviceIs('revoked'), revoked('01'), revoked('02')]))
    assert.deepEqual(entries(lists.find('0.crl')), { '01': keyCompromise, '02': keyCompromise })
  }))

test('a hold from before the start is released too', () =>
  withRegistry(async (registry) => {
    await put(registry, [record('01', ended('certificateHold'))])
    await using lists = publisher(registry)
    await lists.carries(0)
    await lists.carries(await put(registry, [record('01')], [deviceIs('active')]))
    assert.deepEqual(entries(lists.find('all.crl')), {})
  }))

test('numbers grow over starts and failures, and none is used twice', () =>
  withRegistry(async (registry) => {
    const numbers: number[] = []
    for (let start = 0; start < 3; start++) {
      await using lists = publisher(registry)
      numbers.push(await lists.carries(0))
    }
    assert.deepEqual(numbers, [1, 2, 3])
    // A number is taken before it is signed with: here the process ends in between.
    let tries = 0
    const tried = Promise.withResolvers<void>()
    const signParts = (): Promise<Buffer> => {
      tries++
      tried.resolve()
      return Promise.reject(new Error('the key is away'))
    }
    const broken = publisher(registry, { signer: { ...issuingIssuer.signer, signParts } })
    await tried.promise
    assert.equal(await broken.carriedAt(0, AbortSignal.timeout(50)), undefined)
    await broken[Symbol.asyncDispose]()
    assert.equal(tries, 1, 'it is not tried again at once')
    await using lists = publisher(registry)
    assert.equal(await lists.carries(0), 5)
  }))

test('on schedule all lists are signed again, and a delta adds to the schedule before', () =>
  withRegistry(async (registry) => {
    const clock = movableClock(now)
    await put(registry, [record('01'), record('02')])
    await using lists = publisher(registry, { clock: clock.now })
    const first = await lists.carries(0)
    await lists.carries(await put(registry, [record('01', ended('keyCompromise'))], [revoked('01')]))
    const scheduled = async (): Promise<number> => {
      const before = lists.find('1.crl')!.number
      clock.advance(everyMs)
      // The delta of all is signed last.
      await until(() => lists.find('all-delta.crl')!.number > before && lists.find('1.crl')!.number > before)
      return lists.find('1.crl')!.number
    }
    const baseOf = (file: string): string =>
      Buffer.from(read(lists.find(file)).getExtension('2.5.29.27')!.value).toString('hex')
    const second = await scheduled()
    assert.equal(second, first + 2)
    assert.deepEqual(lists.find('1.crl')!.thisUpdate, after(everyMs))
    assert.deepEqual(
      [baseOf('all-delta.crl'), entries(lists.find('all-delta.crl'))],
      ['020101', { '01': keyCompromise }],
    )
    const third = await scheduled()
    assert.deepEqual([baseOf('0-delta.crl'), entries(lists.find('0-delta.crl'))], [`0201${'0'}${second}`, {}])
    assert.deepEqual(entries(lists.find('0.crl')), { '01': keyCompromise })
    assert.equal(third, second + 1)
  }))

test('all lists are signed when that is asked for, and the schedule stays: neither base nor entries move', () =>
  withRegistry(async (registry) => {
    const clock = movableClock(now)
    await put(registry, [record('01', ended('keyCompromise'))])
    await using lists = publisher(registry, { clock: clock.now })
    const first = await lists.carries(0)
    const base = lists.find('0-delta.crl')!.base
    clock.advance(1_000)
    const both = await Promise.all([1, 2].map(() => lists.publish(AbortSignal.timeout(60_000))))
    assert.ok(both[0]! > first && both.includes(lists.find('all.crl')!.number))
    for (const { file, number, thisUpdate, ...list } of lists.served) {
      assert.deepEqual([number, thisUpdate], [lists.published.number, after(1_000)], file)
      assert.equal(list.base, list.scope === 'deltas' ? base : undefined)
    }
    assert.deepEqual(entries(lists.find('0.crl')), { '01': keyCompromise })
    assert.equal(await lists.publish(AbortSignal.abort()), undefined)
  }))

test('an expired certificate leaves after one more list on schedule, over a restart too (RFC 5280 3.3)', () =>
  withRegistry(async (registry) => {
    const clock = movableClock(now)
    const expires = { notAfter: after(1_000).toISOString() }
    await put(registry, [record('01', { ...ended('keyCompromise'), ...expires }), record('02', ended('keyCompromise'))])
    const seen: string[][] = []
    for (let start = 0; start < 3; start++) {
      if (start > 0) clock.advance(everyMs)
      await using lists = publisher(registry, { clock: clock.now })
      await lists.carries(0)
      seen.push(Object.keys(entries(lists.find('all.crl'))))
      clock.advance(everyMs)
      const { number } = lists.find('all.crl')!
      await until(() => lists.find('all.crl')!.number > number)
      seen.push(Object.keys(entries(lists.find('all.crl'))))
    }
    assert.deepEqual(
      seen.map((serials) => serials.join()),
      // On one too many where a start does not know that the last one was published.
      ['01,02', '01,02', '01,02', '02', '02', '02'],
    )
  }))

/** And what it says of serial number 01. */
function responder(registry: Registry, isCurrent: () => boolean) {
  const signer = { ...issuingIssuer.signer, sign: async () => Buffer.from('signed') }
  const ocsp = new OcspResponder(
    registry,
    [{ authority: issuingIssuer.certificate, isOf: () => true, signer: () => ({ ...issuingIssuer, signer }) }],
    { validityMs: day, isCurrent },
  )
  const issuer = Buffer.from(issuerIds(issuingIssuer.certificate)[0]!, 'latin1')
  const request = sequence(sequence(sequence(sequence(sequence(issuer, integer(1))))))
  const answered = async (): Promise<{ isRevoked: boolean; isKept: boolean }> => {
    const { der, kept } = await ocsp.answer(request, after(day))
    // A view into Node's pool would keep what others have put there, too.
    if (kept !== undefined) assert.equal(der.buffer.byteLength, der.length)
    return { isRevoked: der.includes('20260301090000Z'), isKept: kept !== undefined }
  }
  return { ocsp, answered }
}

test('an OCSP answer that a revocation has overtaken is kept for nobody', async () => {
  const { promise: overtaken, resolve } = Promise.withResolvers<void>()
  let reads = 0
  const find = async () => {
    if (reads++ > 0) return { rev: 2, doc: record('01', ended('keyCompromise')) }
    await overtaken
    return { rev: 1, doc: record('01') }
  }
  const { ocsp, answered } = responder({ find } as unknown as Registry, () => true)
  const first = answered()
  ocsp.forget('01')
  assert.deepEqual(await answered(), { isRevoked: true, isKept: true })
  resolve()
  assert.deepEqual(await first, { isRevoked: false, isKept: false })
  assert.deepEqual(await answered(), { isRevoked: true, isKept: true })
})

test('OCSP asks the registry as long as lists are behind it, whatever was answered before', () =>
  withRegistry(async (registry) => {
    await put(registry, [record('01'), record('02')])
    let isAway = false
    let isTried = false
    const signParts: Signer['signParts'] = (parts) => {
      isTried = isAway
      return isAway ? Promise.reject(new Error('the key is away')) : issuingIssuer.signer.signParts(parts)
    }
    await using lists = publisher(registry, { signer: { ...issuingIssuer.signer, signParts } })
    const { ocsp, answered } = responder(registry, () => lists.isCurrent)
    lists.onChange((serial) => ocsp.forget(serial))
    assert.deepEqual(await answered(), { isRevoked: false, isKept: false }, 'while they are loaded')
    await lists.carries(0)
    await until(() => lists.isCurrent)
    assert.deepEqual(await answered(), { isRevoked: false, isKept: true })
    isAway = true
    await put(registry, [record('02', ended('keyCompromise'))], [revoked('02')])
    await until(() => isTried)
    await put(registry, [record('01', ended('keyCompromise'))], [revoked('01')])
    assert.deepEqual(await answered(), { isRevoked: true, isKept: false })
  }))

test('after the clock was ahead for a while nobody is missing who is revoked, and lists are those of today', () =>
  withRegistry(async (registry) => {
    const clock = movableClock(now)
    await put(registry, [record('01', ended('keyCompromise'))])
    const ahead = 400 * day
    {
      await using lists = publisher(registry, { clock: clock.now })
      await lists.carries(0)
      clock.advance(ahead)
      await until(() => lists.find('all-delta.crl')!.thisUpdate > now)
      clock.advance(-ahead)
      await until(() => lists.find('all-delta.crl')!.thisUpdate <= now)
      assert.deepEqual(entries(lists.find('all.crl')), { '01': keyCompromise })
      clock.advance(ahead)
      await until(() => lists.find('all-delta.crl')!.thisUpdate > now)
      clock.advance(-ahead)
    }
    await using lists = publisher(registry, { clock: clock.now })
    await lists.carries(0)
    assert.deepEqual(entries(lists.find('all.crl')), { '01': keyCompromise })
  }))

for (const when of ['at any time', 'in the midst of publishing'])
  test(`what had left as expired comes back by itself when the clock turns out to have been ahead, ${when}, and is told of as it changes`, () =>
    withRegistry(async (registry) => {
      const clock = movableClock(now)
      await put(registry, [record('01', ended('keyCompromise')), record('02', ended('certificateHold'))])
      await using lists = publisher(registry, { clock: clock.now })
      await lists.carries(0)
      clock.advance(400 * day)
      await until(() => lists.find('all-delta.crl')!.thisUpdate > now)
      clock.advance(2 * everyMs)
      await until(() => lists.find('all.crl')!.entries === 0)
      const told: string[] = []
      lists.onChange((serial) => told.push(serial))
      const number = lists.find('all.crl')!.number
      const setBack = () => clock.advance(-400 * day - 2 * everyMs)
      const feedAfter = registry.feedAfter.bind(registry)
      if (when === 'at any time') setBack()
      else
        registry.feedAfter = (...input) => {
          registry.feedAfter = feedAfter
          setBack()
          return feedAfter(...input)
        }
      await until(() => lists.find('all.crl')!.entries > 0)
      assert.deepEqual(entries(lists.find('all.crl')), { '01': keyCompromise, '02': certificateHold })
      assert.ok(lists.find('all.crl')!.number > number)
      const released = await put(registry, [record('02')], [deviceIs('active')])
      await lists.carries(released)
      assert.deepEqual(entries(lists.find('all.crl')), { '01': keyCompromise })
      assert.ok(told.includes('02'))
    }))

async function withKept(body: (registry: Registry, keptIn: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-lists-'))
  try {
    await withRegistry((registry) => body(registry, join(folder, 'lists', 'ca')))
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** Counts reads of all that is revoked. */
function countLoads(registry: Registry): () => number {
  const list = registry.list.bind(registry)
  let loads = 0
  registry.list = (kind, range, ...rest) => {
    if ('index' in range && range.index === 'certificate.status' && range.value === 'revoked') loads++
    return list(kind, range, ...rest)
  }
  return () => loads
}

test('a start goes on from what the last schedule has left, with what has changed since, and with its deltas', () =>
  withKept(async (registry, keptIn) => {
    const clock = movableClock(now)
    const { name } = points(1)
    const held = record('02', ended('certificateHold'))
    const other = { deviceId: 'cam-2', distributionPoint: `${name}/1` }
    const gone = record('01', { ...ended('keyCompromise'), deviceId: 'cam-3' })
    const unnamed = record('04', { ...ended('superseded'), deviceId: 'cam-4', distributionPoint: undefined as never })
    await put(registry, [gone, held, record('03', other), unnamed], [revoked('01')])
    const loads = countLoads(registry)
    let scheduled: number
    {
      await using lists = publisher(registry, { clock: clock.now, keptIn })
      scheduled = await lists.carries(0)
    }
    assert.equal(loads(), 1)
    // While nobody looks: one is released, one revoked.
    await put(registry, [record('02')], [deviceIs('active')])
    const feedSeq = await put(registry, [record('03', { ...other, ...ended('superseded') })], [revoked('03')])
    clock.advance(1_000)
    {
      await using lists = publisher(registry, { clock: clock.now, keptIn })
      assert.ok((await lists.carries(feedSeq)) > scheduled)
      const all = { '01': keyCompromise, '03': superseded, '04': superseded }
      assert.deepEqual(entries(lists.find('all.crl')), all)
      assert.deepEqual(entries(lists.find('0.crl')), { '01': keyCompromise })
      assert.deepEqual(entries(lists.find('1.crl')), { '03': superseded })
      // Whoever has the list of that schedule needs no whole one.
      const delta = lists.find('all-delta.crl')!
      assert.deepEqual([delta.base, entries(delta)], [scheduled, { '02': removeFromCRL, '03': superseded }])
    }
    // A third start finds what the second has left.
    await using lists = publisher(registry, { clock: clock.now, keptIn, shards: 3 })
    await lists.carries(feedSeq)
    assert.deepEqual(entries(lists.find('all.crl')), { '01': keyCompromise, '03': superseded, '04': superseded })
    assert.deepEqual(entries(lists.find('2.crl')), {})
    assert.equal(loads(), 1)
    assert.equal(lists.needsFeedAfter, feedSeq)
  }))

test('a hold that was on a list after the last schedule, and is over at the next start, leaves that list', () =>
  withKept(async (registry, keptIn) => {
    const gone = record('02', { ...ended('keyCompromise'), deviceId: 'cam-2' })
    await put(registry, [record('01'), gone], [revoked('02')])
    const { feedHashAt } = registry
    const isHeld = Promise.withResolvers<void>()
    let scheduled: number
    {
      await using lists = publisher(registry, { keptIn })
      // Reading where the feed stands takes so long that there is a hold meanwhile.
      registry.feedHashAt = async (seq) => {
        await isHeld.promise
        return feedHashAt.call(registry, seq)
      }
      scheduled = await lists.carries(0)
      await lists.carries(await put(registry, [record('01', ended('certificateHold'))], [deviceIs('held')]))
      assert.deepEqual(entries(lists.find('0.crl')), { '01': certificateHold, '02': keyCompromise })
      isHeld.resolve()
      await until(() => existsSync(keptIn))
    }
    registry.feedHashAt = feedHashAt
    const feedSeq = await put(registry, [record('01')], [deviceIs('active')])
    await using lists = publisher(registry, { keptIn })
    await lists.carries(feedSeq)
    assert.deepEqual(entries(lists.find('0.crl')), { '02': keyCompromise })
    const delta = lists.find('0-delta.crl')!
    assert.deepEqual([delta.base, entries(delta)], [scheduled, { '01': removeFromCRL }])
  }))

test('the feed is needed from where the lists were kept, while they go on without being kept', () =>
  withKept(async (registry, keptIn) => {
    const kept = await put(registry, [record('01', ended('keyCompromise'))], [revoked('01')])
    await using lists = publisher(registry, { keptIn })
    assert.equal(lists.needsFeedAfter, 0)
    await lists.carries(kept)
    await until(() => existsSync(keptIn))
    await lists.carries(await put(registry, [record('02', ended('keyCompromise'))], [revoked('02')]))
    await until(() => lists.needsFeedAfter > 0)
    assert.equal(lists.needsFeedAfter, kept)
  }))

test('what was kept and is damaged, or is of another registry, is passed over: a start reads who is revoked', () =>
  withKept(async (registry, keptIn) => {
    await put(registry, [record('01', ended('keyCompromise'))], [revoked('01')])
    const loads = countLoads(registry)
    const found = async (from: Registry): Promise<string[]> => {
      await using lists = publisher(from, { keptIn })
      await lists.carries(0)
      return Object.keys(entries(lists.find('all.crl')))
    }
    assert.deepEqual([await found(registry), await found(registry), loads()], [['01'], ['01'], 1])
    const whole = readFileSync(keptIn)
    const entry = whole.indexOf(Buffer.from('0201', 'hex'))
    const changed = Buffer.from(whole)
    changed[entry + 2] = 7
    const longer = Buffer.from(whole)
    longer.writeUInt32BE(0x7fff_ffff)
    for (const [at, damaged] of [changed, longer, whole.subarray(0, -40), Buffer.from('\0\0\0\x02{}')].entries()) {
      writeFileSync(keptIn, damaged)
      assert.deepEqual([await found(registry), loads()], [['01'], at + 2])
    }
    writeFileSync(keptIn, whole)
    await withRegistry(async (another) => {
      await put(another, [record('09', ended('keyCompromise'))], [revoked('09')])
      assert.deepEqual(await found(another), ['09'])
    })
    // One that has no events has nothing to tell it from others.
    rmSync(keptIn)
    await withRegistry(async (another) => {
      await put(another, [record('09', ended('keyCompromise'))])
      assert.deepEqual([await found(another), existsSync(keptIn)], [['09'], false])
    })
  }))

test('lists that cannot be kept are published all the same', () =>
  withKept(async (registry, keptIn) => {
    writeFileSync(dirname(keptIn), 'a file where the folder belongs')
    await put(registry, [record('01', ended('keyCompromise'))], [revoked('01')])
    await using lists = publisher(registry, { keptIn })
    await lists.carries(0)
    assert.deepEqual(entries(lists.find('all.crl')), { '01': keyCompromise })
  }))

test('what was revoked before there was an index of it is found', () =>
  withRegistry(async (registry) => {
    const stored = { ...record('01', ended('keyCompromise')) }
    // As a version without the index wrote it: a status that the index passes over, then the record alone.
    await put(registry, [{ ...stored, status: 'issued' }])
    await withoutIndex(registry, stored)
    await using lists = publisher(registry)
    await lists.carries(0)
    assert.deepEqual(entries(lists.find('all.crl')), { '01': keyCompromise })
  }))

/** Changes a record's text behind the registry's back. */
async function withoutIndex(registry: Registry, doc: CertificateRecord): Promise<void> {
  const find = registry.list.bind(registry)
  let isFirst = true
  registry.list = async (kind, range, paging, keep) => {
    const page = await find(kind, range, paging)
    if (!('kind' in range) || !isFirst) return find(kind, range, paging, keep)
    isFirst = false
    return { ...page, items: page.items.map(({ rev }) => ({ rev, doc: doc as never })) }
  }
}
