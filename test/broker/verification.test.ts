/** What verification finds, and what a listener's mode and table make of it, for every state, mode and action. */
import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { type Admission, admitConnect, judge, judgeHandshake, type ListenerRules } from '../../broker/admission.ts'
import { reasonOf } from '../../broker/refusals.ts'
import type { Authority, Facts, PeerEvidence } from '../../broker/verification.ts'
import { connackCode } from '../../broker/wire/reason.ts'
import {
  defaultHandling,
  type Handling,
  handlingFault,
  handlingTable,
  parseHandling,
  type VerificationFault,
  verificationFaults,
} from '../../contract/verification.ts'
import { type CertificateFacts, parseCertificate, parsePem } from '../../pki/certificate.ts'
import { starter } from '../harness/broker.ts'
import { type TestCertificate, TestPki } from '../harness/certificates.ts'

const hour = 3_600_000
const now = new Date('2027-03-01T12:00:00Z')
const dates = { notBefore: new Date(now.getTime() - 30 * hour), notAfter: new Date(now.getTime() + 30 * hour) }

const own: Authority = { label: 'fleetgate', naming: undefined, statusOf: undefined }
const partner: Authority = {
  label: 'partner',
  naming: { deviceId: 'subject.CN', deviceIdPrefix: '', pins: undefined },
  statusOf: undefined,
}
const pinning: Authority = { ...partner, naming: { ...partner.naming!, pins: 'required' } }

let certificate: CertificateFacts
let forServers: CertificateFacts
let selfSigned: CertificateFacts
before(async () => {
  const facts = ({ pem }: TestCertificate): CertificateFacts => parseCertificate(parsePem(pem, 'CERTIFICATE')[0]!)
  const pki = await TestPki.create()
  certificate = facts(await pki.device('cam-1', dates))
  forServers = facts(await pki.device('cam-1', { ...dates, usage: ['1.3.6.1.5.5.7.3.1'] }))
  selfSigned = facts(await TestPki.selfSigned('cam-1'))
})

type Case = Facts & { clientId: string }
const evidenceOf = (leaf: CertificateFacts, more: Partial<PeerEvidence> = {}): PeerEvidence => ({
  certificate: leaf,
  isUnreadable: false,
  chainAccepted: true,
  chainError: undefined,
  issuer: { kind: 'trusted', authority: own },
  ...more,
})

function facts(change: Partial<Case> = {}, record: { status?: 'issued' | 'revoked'; reason?: string } = {}): Case {
  const known = new Set<string>([certificate.fingerprint, forServers.fingerprint])
  return {
    evidence: evidenceOf(certificate),
    beliefs: {
      policy: { version: 1, document: starter },
      findDevice: (id) => (id === 'cam-1' ? { profile: 'camera', groups: [], status: 'active' } : undefined),
      findCertificate: (fingerprint) =>
        known.has(fingerprint) ? { deviceId: 'cam-1', status: 'issued', ...record } : undefined,
    },
    live: true,
    lastLive: undefined,
    now,
    isUnasked: false,
    suspendedUntil: undefined,
    clientId: 'cam-1',
    ...change,
  }
}

const nobody: PeerEvidence = {
  certificate: undefined,
  isUnreadable: false,
  chainAccepted: false,
  chainError: undefined,
  issuer: { kind: 'unknown' },
}
const unlisted = () => ({ ...facts().beliefs, findCertificate: () => undefined })
const later = (ms: number): Date => new Date(now.getTime() + ms)

/** Each state by itself, one hour after it began where it has a beginning. */
const cases: Record<VerificationFault, () => Case> = {
  none: () => facts({ evidence: nobody }),
  self_signed: () =>
    facts({ evidence: { ...evidenceOf(selfSigned), issuer: { kind: 'unknown' }, chainAccepted: false } }),
  bad_signature: () =>
    facts({ evidence: evidenceOf(certificate, { issuer: { kind: 'forged' }, chainAccepted: false }) }),
  unknown_ca: () => facts({ evidence: evidenceOf(certificate, { issuer: { kind: 'unknown' }, chainAccepted: false }) }),
  revoked: () => facts({}, { status: 'revoked', reason: 'keyCompromise' }),
  held: () => facts({}, { status: 'revoked', reason: 'certificateHold' }),
  stale_status: () => facts({ live: false, lastLive: later(-hour) }),
  expired: () => facts({ now: later(31 * hour) }),
  not_yet_valid: () => facts({ now: later(-31 * hour) }),
  wrong_eku: () => facts({ evidence: evidenceOf(forServers) }),
  not_registered: () => facts({ beliefs: unlisted() }),
  pin_mismatch: () =>
    facts({
      evidence: evidenceOf(certificate, { issuer: { kind: 'trusted', authority: pinning } }),
      beliefs: unlisted(),
    }),
  client_id_mismatch: () => facts({ clientId: 'cam-2' }),
}

/** What CONNACK says of each to a device that is rejected: MQTT 5, then 3.1.1. */
const said: Record<VerificationFault, [number, number]> = {
  none: [0x87, 5],
  self_signed: [0x87, 5],
  bad_signature: [0x87, 5],
  unknown_ca: [0x87, 5],
  revoked: [0x87, 5],
  held: [0x87, 5],
  stale_status: [0x88, 3],
  expired: [0x87, 5],
  not_yet_valid: [0x87, 5],
  wrong_eku: [0x87, 5],
  not_registered: [0x87, 5],
  pin_mismatch: [0x87, 5],
  client_id_mismatch: [0x85, 2],
}

const modes = ['enforce', 'permissive'] as const
const rulesOf = (mode: ListenerRules['mode'], state?: VerificationFault, text?: string): ListenerRules => ({
  name: 'front',
  mode,
  handling: handlingTable(mode, state === undefined ? {} : { [state]: text }),
})
const verdictOf = ({ clientId, ...situation }: Case, rules: ListenerRules) => judge({ ...situation, rules }, clientId)
const connect = (clientId: string) => ({ clientId, clean: true })

test('a device without a fault is admitted in either mode, until its certificate ends', () => {
  for (const mode of modes) {
    const { listener, state, action, policy, deviceId, authority, until, cause } = verdictOf(facts(), rulesOf(mode))
    assert.deepEqual(
      { listener, state, action, policy, deviceId, authority, until, cause },
      {
        listener: 'front',
        state: 'valid',
        action: 'admit',
        policy: 'normal',
        deviceId: 'cam-1',
        authority: 'fleetgate',
        until: dates.notAfter,
        cause: undefined,
      },
    )
  }
})

for (const state of verificationFaults) {
  for (const mode of modes) {
    for (const text of [undefined, 'reject', 'quarantine', 'log-only', 'grace(2h)', 'grace(30m)']) {
      const handling = parseHandling(text ?? '')
      if (handling !== undefined && handlingFault(state, handling) !== undefined) continue
      test(`${state} at a listener in ${mode} that says ${text ?? 'nothing'}: one verdict at CONNECT`, () => {
        const rules = rulesOf(mode, state, text)
        const situation = cases[state]()
        const verdict = verdictOf(situation, rules)
        const wanted: Handling =
          text === undefined || text === 'grace(30m)' ? defaultHandling(mode, state) : parseHandling(text)!
        assert.equal(verdict.state, state)
        assert.equal(verdict.action, wanted.action)
        const policy = { reject: undefined, quarantine: 'quarantine', grace: 'normal', 'log-only': 'normal' } as const
        assert.equal(verdict.policy, policy[wanted.action])
        const admission = admitConnect({
          ...situation,
          rules,
          connect: connect(situation.clientId),
          remoteAddress: '127.0.0.1',
          otherConnections: 0,
          maxConnections: 1,
        })
        assert.equal(admission.admitted, verdict.policy === 'normal')
        assert.deepEqual(admission.verdict, verdict)
        const code = reasonOf(verdict.cause!)
        assert.deepEqual([code, connackCode(code)], said[state])
        assert.notEqual(verdict.message, '')
      })
    }
  }
}

test('only a stranger that is rejected goes at the end of the handshake', () => {
  const strangers = new Set(['none', 'self_signed', 'bad_signature', 'unknown_ca'])
  for (const state of verificationFaults) {
    const { evidence } = cases[state]()
    assert.equal(judgeHandshake(evidence, rulesOf('enforce'))?.state, strangers.has(state) ? state : undefined, state)
    assert.equal(judgeHandshake(evidence, rulesOf('enforce', state, 'quarantine')), undefined)
  }
})

test('a fault that is tolerated does not hide another', () => {
  const rules = (texts: object): ListenerRules => ({ ...rulesOf('enforce'), handling: handlingTable('enforce', texts) })
  const expired = { now: later(31 * hour) }
  const tolerant = rules({ expired: 'grace(2h)', wrong_eku: 'log-only', stale_status: 'grace(2h)' })
  assert.equal(verdictOf(facts(expired), tolerant).policy, 'normal')
  assert.equal(verdictOf(facts(expired, { status: 'revoked' }), tolerant).state, 'revoked')
  assert.equal(verdictOf(facts({ ...expired, clientId: 'cam-2' }), tolerant).state, 'client_id_mismatch')
  assert.equal(verdictOf(facts({ ...expired, live: false, lastLive: later(30 * hour) }), tolerant).policy, 'normal')
  assert.equal(verdictOf(facts({ ...expired, live: false, lastLive: later(-hour) }), tolerant).state, 'stale_status')
  const both = verdictOf(facts(expired, { status: 'revoked' }), rules({ expired: 'quarantine' }))
  assert.deepEqual([both.state, both.action], ['revoked', 'reject'], 'the stricter of two')
})

test('grace ends when it says, and by the mode; without a beginning there is none', () => {
  const rules = rulesOf('enforce', 'expired', 'grace(2h)')
  const end = new Date(dates.notAfter.getTime() + 2 * hour)
  assert.deepEqual(verdictOf(cases.expired(), rules).until, end)
  assert.equal(verdictOf(facts({ now: new Date(end.getTime() - 1) }), rules).action, 'grace')
  assert.equal(verdictOf(facts({ now: end }), rules).action, 'reject')
  assert.equal(verdictOf(facts({ now: end }), rulesOf('permissive', 'expired', 'grace(2h)')).action, 'quarantine')
  const never = facts({ live: false })
  assert.equal(verdictOf(never, rulesOf('enforce', 'stale_status', 'grace(9999d)')).action, 'reject')
  assert.equal(verdictOf(cases.expired(), rulesOf('enforce', 'expired', 'log-only')).until, undefined)
})

test('a fault of the chain is not taken for one of the leaf that is tolerated', () => {
  const broken = (chainError: string, change: Partial<Case> = {}): Case =>
    facts({ ...change, evidence: evidenceOf(certificate, { chainAccepted: false, chainError }) })
  const rules = rulesOf('enforce', 'expired', 'grace(2h)')
  const expired = { now: later(31 * hour) }
  assert.equal(verdictOf(broken('CERT_HAS_EXPIRED', expired), rules).action, 'grace')
  assert.equal(verdictOf(broken('UNABLE_TO_GET_ISSUER_CERT', expired), rules).state, 'unknown_ca')
  assert.equal(verdictOf(broken('CERT_HAS_EXPIRED'), rules).state, 'unknown_ca')
})

test('a certificate of another CA is the device’s that its rule names, and whom the registry has', () => {
  const of = (authority: Authority, more: Partial<Case> = {}): Case =>
    facts({
      evidence: evidenceOf(certificate, { issuer: { kind: 'trusted', authority } }),
      beliefs: unlisted(),
      ...more,
    })
  const naming = (deviceId: 'subject.CN' | 'subject.serialNumber' | 'san.dns' | 'san.uri', deviceIdPrefix = '') =>
    of({ ...partner, naming: { deviceId, deviceIdPrefix, pins: undefined } })
  const enforce = rulesOf('enforce')
  const { state, deviceId, authority } = verdictOf(of(partner), enforce)
  assert.deepEqual([state, deviceId, authority], ['valid', 'cam-1', 'partner'])
  assert.equal(verdictOf(naming('san.uri', 'urn:fleetgate:device:'), enforce).deviceId, 'cam-1')
  for (const nameless of [
    naming('san.uri'),
    naming('san.dns'),
    naming('subject.serialNumber'),
    naming('subject.CN', 'x'),
  ])
    assert.equal(verdictOf(nameless, enforce).state, 'not_registered')
  const noDevice = { ...unlisted(), findDevice: () => undefined }
  assert.equal(verdictOf(of(partner, { beliefs: noDevice }), enforce).state, 'not_registered')
  const gone = { ...unlisted(), findDevice: () => ({ profile: 'camera', groups: [], status: 'revoked' as const }) }
  assert.equal(verdictOf(of(partner, { beliefs: gone }), enforce).cause, 'device_revoked')
  const held = { ...unlisted(), findDevice: () => ({ profile: 'camera', groups: [], status: 'held' as const }) }
  const onHold = verdictOf(of(partner, { beliefs: held }), enforce)
  assert.deepEqual([onHold.state, onHold.cause], ['held', 'device_held'])
})

test('a CA that speaks for some groups speaks for no other device', () => {
  const by = (...groups: string[]): Case => {
    const device = { profile: 'camera', groups, status: 'active' as const }
    const authority = { ...partner, naming: { ...partner.naming!, groups: ['west', 'east'] } }
    return facts({
      evidence: evidenceOf(certificate, { issuer: { kind: 'trusted', authority } }),
      beliefs: { ...unlisted(), findDevice: () => device },
    })
  }
  assert.equal(verdictOf(by('north', 'east'), rulesOf('enforce')).deviceId, 'cam-1')
  for (const other of [by(), by('north')]) {
    const { state, deviceId, message } = verdictOf(other, rulesOf('enforce'))
    assert.deepEqual([state, deviceId], ['not_registered', undefined])
    assert.match(message, /a device of the groups west, east by the certificate's subject\.CN is not in the registry/)
  }
})

test('pins: the registry’s record of the certificate has to be there where they are required, and never of another device', () => {
  const of = (authority: Authority, deviceId: string) =>
    facts({
      evidence: evidenceOf(certificate, { issuer: { kind: 'trusted', authority } }),
      beliefs: { ...facts().beliefs, findCertificate: () => ({ deviceId, status: 'issued' }) },
    })
  assert.equal(verdictOf(of(pinning, 'cam-1'), rulesOf('enforce')).state, 'valid')
  assert.equal(verdictOf(of(pinning, 'cam-9'), rulesOf('enforce')).state, 'pin_mismatch')
  assert.equal(verdictOf(of(partner, 'cam-9'), rulesOf('enforce')).state, 'pin_mismatch')
})

test('a key that is suspended is on hold, whatever else is wrong', () => {
  const suspended = facts({ suspendedUntil: later(hour), now: later(31 * hour) })
  const { state, cause, policy, message } = verdictOf(suspended, rulesOf('enforce'))
  assert.deepEqual([state, cause, policy], ['held', 'key_suspended', undefined])
  assert.match(message, /it may be used again at /)
})

test('a revocation list has its say: revoked, held, run out or missing', () => {
  const listed = (status: ReturnType<NonNullable<Authority['statusOf']>>): Case =>
    facts({
      evidence: evidenceOf(certificate, {
        issuer: { kind: 'trusted', authority: { ...partner, statusOf: () => status } },
      }),
      beliefs: unlisted(),
    })
  const state = (status: Parameters<typeof listed>[0], rules = rulesOf('enforce')) =>
    verdictOf(listed(status), rules).state
  assert.equal(state({ status: 'good' }), 'valid')
  assert.equal(state({ status: 'revoked', reason: 'keyCompromise' }), 'revoked')
  assert.equal(state({ status: 'revoked', reason: 'certificateHold' }), 'held')
  assert.equal(state({ status: 'stale', since: undefined }), 'stale_status')
  const grace = rulesOf('enforce', 'stale_status', 'grace(2h)')
  assert.equal(verdictOf(listed({ status: 'stale', since: later(-hour) }), grace).action, 'grace')
  assert.equal(verdictOf(listed({ status: 'stale', since: later(-3 * hour) }), grace).action, 'reject')
})

test('where enroll cannot be asked about an unknown certificate, that is what its device hears', () => {
  const unasked = facts({ beliefs: unlisted(), isUnasked: true })
  assert.equal(verdictOf(unasked, rulesOf('enforce')).cause, 'snapshot_stale')
  assert.equal(verdictOf(facts({ isUnasked: true }), rulesOf('enforce')).state, 'valid', 'it is known by now')
})

test('what is asked for can be refused beside verification: the verdict says so', () => {
  const admission = (more: object) => {
    const { clientId, ...situation } = facts()
    const rest = {
      rules: rulesOf('permissive'),
      connect: connect(clientId),
      remoteAddress: '127.0.0.1',
      otherConnections: 0,
      maxConnections: 1,
      ...more,
    }
    const { verdict } = admitConnect({ ...situation, ...rest })
    return [verdict.state, verdict.cause, verdict.action, verdict.policy]
  }
  assert.deepEqual(admission({ otherConnections: 1 }), ['valid', 'too_many_connections', 'reject', undefined])
  const will = { topic: 'elsewhere', payload: Buffer.alloc(0), qos: 0, retain: false }
  assert.deepEqual(admission({ connect: { ...connect('cam-1'), will } }), ['valid', 'will_denied', 'reject', undefined])
  assert.deepEqual(admission({ connect: { clientId: '', clean: false } }), [
    'valid',
    'client_id_mismatch',
    'reject',
    undefined,
  ])
})

test('a CONNECT that is looked at again has the policy that was compiled for it, unless what that was made of has changed', () => {
  const device = { profile: 'camera', groups: [], status: 'active' } as const
  const beliefs = (more: Partial<Facts['beliefs']> = {}): Facts['beliefs'] => ({
    ...facts().beliefs,
    findDevice: () => ({ ...device, groups: [...device.groups] }),
    ...more,
  })
  const stable = facts().beliefs.findDevice('cam-1')!
  const known = beliefs({ findDevice: () => stable })
  const rules = rulesOf('enforce', 'expired', 'grace(2h)')
  const look = (situation: Case, before?: Admission, clientId = 'cam-1') =>
    admitConnect({
      ...situation,
      rules,
      connect: connect(clientId),
      remoteAddress: '127.0.0.1',
      otherConnections: 0,
      maxConnections: 1,
      before,
    })
  const matcherOf = (admission: Admission) => admission.admitted && admission.matcher
  const first = look(facts({ beliefs: known }))
  assert.ok(first.admitted)
  assert.equal(matcherOf(look(facts({ beliefs: known }), first)), first.matcher)
  const others: [string, Admission][] = [
    ['device', look(facts({ beliefs: beliefs() }), first)],
    ['policy', look(facts({ beliefs: { ...known, policy: { version: 2, document: { ...starter } } } }), first)],
    ['client id', look(facts({ beliefs: known }), first, 'cam-1:tool')],
    ['state', look(facts({ beliefs: known, now: later(31 * hour) }), first)],
  ]
  for (const [what, second] of others) {
    assert.ok(second.admitted, what)
    assert.notEqual(second.matcher, first.matcher, what)
  }
})

test('a table may not tolerate who was put out, pretends, or has no name, nor count grace from nowhere', () => {
  const refused = (text: string): string[] =>
    verificationFaults.filter((state) => handlingFault(state, parseHandling(text)!) !== undefined)
  assert.deepEqual(refused('reject'), [])
  assert.deepEqual(refused('quarantine'), [])
  const never = [
    'none',
    'self_signed',
    'bad_signature',
    'unknown_ca',
    'revoked',
    'held',
    'not_registered',
    'client_id_mismatch',
  ]
  assert.deepEqual(refused('log-only'), never)
  assert.deepEqual(
    verificationFaults.filter((state) => !refused('grace(1d)').includes(state)),
    ['stale_status', 'expired'],
  )
  for (const text of ['', 'admit', 'grace', 'grace(0h)', 'grace(1w)', 'grace(-1h)', 'grace(1h) ', 'Reject'])
    assert.equal(parseHandling(text), undefined, text)
})
