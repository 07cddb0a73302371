import { clientIdBelongsTo, type DeviceId } from '../contract/ids.ts'
import type { PolicyDocument } from '../contract/policy-document.ts'
import { compilePolicy, type Matcher } from '../contract/policy-matcher.ts'
import type { PrincipalFacts } from '../contract/principal-facts.ts'
import type { ProblemCode } from '../contract/problems.ts'
import {
  defaultHandling,
  type HandlingTable,
  type ListenerMode,
  type VerificationState,
} from '../contract/verification.ts'
import type { CertificateFacts } from '../pki/certificate.ts'
import { connectFault } from './connect-policy.ts'
import { type Principal, principalOf } from './principal.ts'
import type { SecondFactor } from './second-factor.ts'
import type { DeviceState } from './trust/device-table.ts'
import { deviceIdOf, type Facts, type Fault, faultsOfDevice, type PeerEvidence, strangeness } from './verification.ts'

export type Will = { topic: string; payload: Buffer; qos: number; retain: boolean }
export type ConnectFacts = {
  clientId: string
  clean: boolean
  will?: Will | undefined
  username?: string | undefined
  password?: Buffer | undefined
}
/** What a listener does about faults. */
export type ListenerRules = {
  name: string
  mode: ListenerMode
  handling: HandlingTable
  /** Asked at CONNECT, of who would be admitted without it. */
  secondFactor?: SecondFactor | undefined
}

/** Whether any fault leads into the quarantine: by the table, or where a grace ends by the mode. */
export const mayQuarantine = ({ mode, handling }: ListenerRules): boolean =>
  mode === 'permissive' || Object.values(handling).some(({ action }) => action === 'quarantine')

/** What was found about a connection and what comes of it: the one record for log, events, metrics, API and audit. */
export type Verdict = {
  listener: string
  state: VerificationState
  /** Undefined for who is let in without a fault. */
  cause: ProblemCode | undefined
  /** For the peer and for people; empty without a cause. */
  message: string
  action: 'admit' | 'reject' | 'quarantine' | 'grace' | 'log-only'
  /** What it is let in to; undefined for who is rejected. */
  policy: 'normal' | 'quarantine' | undefined
  certificate: CertificateFacts | undefined
  /** Label of the CA that issued the certificate. */
  authority: string | undefined
  /** Of the registry; undefined where the certificate does not say. */
  deviceId: DeviceId | undefined
  /** When it has to be looked at again: the end of the certificate, of its CA's revocation list, or of a grace. */
  until: Date | undefined
}
/** For log lines. */
export const verdictFields = ({ listener, state, action }: Verdict) => ({ listener, verification: state, action })

export type Refusal = {
  admitted: false
  reason: ProblemCode
  message: string
  verdict: Verdict
  /** Of who was known, and would have been let in by verification alone. */
  facts?: PrincipalFacts
  /** Where a number was exceeded: what would have been enough. */
  needed?: number | undefined
  /** What refused was the will. */
  isWill?: boolean | undefined
}
type Admitted = { admitted: true; principal: Principal; matcher: Matcher; verdict: Verdict; basis: Basis }
export type Admission = Admitted | Refusal
/** All that a matcher is made of, for one connection. */
type Basis = {
  document: PolicyDocument
  device: DeviceState
  clientId: string
  state: VerificationState
  authority: string | undefined
}

type Situation = Facts & { rules: ListenerRules }

/**
 * At the end of the handshake: strangers go before one MQTT byte is read, where the listener rejects them. One of ours that is
 * not welcome may stay until its CONNECT, so that it can be told.
 *
 * @returns undefined for who may stay
 */
export function judgeHandshake(evidence: PeerEvidence, rules: ListenerRules): Verdict | undefined {
  const fault = strangeness(evidence)
  if (fault === undefined || rules.handling[fault.state].action === 'quarantine') return undefined
  return rejection(evidence, rules, fault)
}

/** What verification says of a peer now, at its CONNECT or later: nothing of what it asks for is looked at. */
export function judge(situation: Situation, clientId?: string): Verdict {
  const { evidence, beliefs, rules, now } = situation
  const { certificate } = evidence
  const deviceId = deviceIdOf(evidence, beliefs)
  const stranger = strangeness(evidence)
  const faults = stranger === undefined ? faultsOfDevice(situation) : [stranger]
  if (deviceId !== undefined && clientId !== undefined && !clientIdBelongsTo(clientId || deviceId, deviceId)) {
    const message = `the client id must be ${deviceId}, or ${deviceId}: and a suffix of at most 64 characters`
    faults.push({ state: 'client_id_mismatch', cause: 'client_id_mismatch', message })
  }
  const treated = faults.map((fault) => treat(fault, rules, now)).toSorted(bySeverity)
  const [worst] = treated
  const graceEnds = treated.flatMap(({ until }) => (until === undefined ? [] : [until]))
  const isExpired = faults.some(({ state }) => state === 'expired')
  const ends = [...graceEnds, ...(isExpired || certificate === undefined ? [] : [certificate.notAfter])]
  if (certificate !== undefined && evidence.issuer.kind === 'trusted') {
    const listed = evidence.issuer.authority.statusOf?.(certificate, now)
    if (listed?.status === 'good' && listed.until !== undefined) ends.push(listed.until)
  }
  const action = worst?.action ?? 'admit'
  return {
    listener: rules.name,
    state: worst?.fault.state ?? 'valid',
    cause: worst?.fault.cause,
    message: worst?.fault.message ?? '',
    action,
    policy: action === 'reject' ? undefined : action === 'quarantine' ? 'quarantine' : 'normal',
    certificate,
    authority: evidence.issuer.kind === 'trusted' ? evidence.issuer.authority.label : undefined,
    deviceId,
    until: ends.length === 0 ? undefined : new Date(Math.min(...ends.map((end) => end.getTime()))),
  }
}

/**
 * At CONNECT, on every connection, resumed ones included: Node checks neither dates nor revocation on resumption. Who is to be
 * quarantined is not admitted.
 *
 * @param otherConnections of the same device, without one that this CONNECT takes over
 * @param before           what was said of this CONNECT a moment ago: where nothing has changed, the policy is not compiled again
 */
export function admitConnect(
  input: Situation & {
    connect: ConnectFacts
    remoteAddress: string
    otherConnections: number
    maxConnections: number
    before?: Admission | undefined
  },
): Admission {
  const { connect, beliefs, before } = input
  const verdict = judge(input, connect.clientId)
  const { certificate, deviceId } = verdict
  const refuse = (reason: ProblemCode, message: string): Refusal => refusal(verdict, reason, message)
  if (verdict.policy !== 'normal' || certificate === undefined || deviceId === undefined) {
    return { admitted: false, reason: verdict.cause ?? 'internal', message: verdict.message, verdict }
  }
  if (connect.clientId === '' && !connect.clean) return refuse(...namelessSession)
  if (input.otherConnections >= input.maxConnections) {
    const message = `${deviceId} has ${input.otherConnections} connections already`
    return { ...refuse('too_many_connections', message), needed: input.otherConnections + 1 }
  }
  const device = beliefs.findDevice(deviceId)!
  const clientId = connect.clientId || deviceId
  const { state, authority } = verdict
  const basis = { document: beliefs.policy.document, device, clientId, state, authority }
  const known = before?.admitted === true && isSame(before.basis, basis) ? before : undefined
  const principal = known?.principal ?? principalOf({ certificate, deviceId, device, clientId, verdict })
  const matcher = known?.matcher ?? compilePolicy(basis.document, principal.facts)
  const fault = connectFault(matcher, { ...input, deviceId, will: connect.will })
  if (fault !== undefined) {
    const { reason, message, needed, isWill } = fault
    return { ...refuse(reason, message), facts: principal.facts, needed, isWill }
  }
  return { admitted: true, principal, matcher, verdict, basis }
}

const isSame = (one: Basis, other: Basis): boolean =>
  one.document === other.document &&
  one.device === other.device &&
  one.clientId === other.clientId &&
  one.state === other.state &&
  one.authority === other.authority

/** Of who is refused for another reason than what verification found. */
export const refusal = (verdict: Verdict, reason: ProblemCode, message: string): Refusal => ({
  admitted: false,
  reason,
  message,
  verdict: { ...verdict, cause: reason, message, action: 'reject', policy: undefined },
})

/** [MQTT-3.1.3-8] of 3.1.1 */
export const namelessSession: [ProblemCode, string] = [
  'client_id_mismatch',
  'a session that is to be kept needs a client id',
]

type Treated = { fault: Fault; action: Exclude<Verdict['action'], 'admit'>; until?: Date }

function treat(fault: Fault, { mode, handling }: ListenerRules, now: Date): Treated {
  const wanted = handling[fault.state]
  if (wanted.action !== 'grace') return { fault, action: wanted.action }
  const until = new Date((fault.since?.getTime() ?? Number.NEGATIVE_INFINITY) + wanted.durationMs)
  if (now < until) return { fault, action: 'grace', until }
  return { fault, action: defaultHandling(mode, fault.state).action as 'reject' | 'quarantine' }
}

const severity = { reject: 2, quarantine: 1, grace: 0, 'log-only': 0 }
const bySeverity = (a: Treated, b: Treated): number => severity[b.action] - severity[a.action]

const rejection = (evidence: PeerEvidence, rules: ListenerRules, fault: Fault): Verdict => ({
  listener: rules.name,
  state: fault.state,
  cause: fault.cause,
  message: fault.message,
  action: 'reject',
  policy: undefined,
  certificate: evidence.certificate,
  authority: undefined,
  deviceId: undefined,
  until: undefined,
})
