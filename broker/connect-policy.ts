/** What a policy says of a connection as a whole: whether it may be, and on which terms. */
import { conditionFault } from '../contract/policy-conditions.ts'
import type { AskedMessage, Matcher } from '../contract/policy-matcher.ts'
import type { ProblemCode } from '../contract/problems.ts'
import type { Acceptance, LinkLimits } from './wire/link-events.ts'
import type { Connect } from './wire/packet.ts'

type Asked = {
  deviceId: string
  will: AskedMessage | undefined
  remoteAddress: string
  /** of the same device, without one that this CONNECT takes over */
  otherConnections: number
  now: Date
}

type ConnectFault = { reason: ProblemCode; message: string; needed?: number; isWill?: boolean }

/** What the policy has against a CONNECT; undefined when nothing. */
export function connectFault(matcher: Matcher, asked: Asked): ConnectFault | undefined {
  const { deviceId, will, otherConnections } = asked
  for (const { statement, connect } of matcher.conditions) {
    const fault = conditionFault(connect, asked)
    if (fault !== undefined) return { reason: 'connect_condition', message: `${fault} (policy statement ${statement})` }
  }
  const { connections = Number.POSITIVE_INFINITY } = matcher.limits
  if (otherConnections >= connections) {
    const message = `${deviceId} has ${otherConnections} connections already; its policy gives it ${connections}`
    return { reason: 'too_many_connections', message, needed: otherConnections + 1 }
  }
  if (will === undefined) return undefined
  const verdict = matcher.allowsMessage(will)
  if (verdict.allowed) return undefined
  const topic = JSON.stringify(will.topic.slice(0, 200))
  const how = {
    qos_denied: ` at QoS ${will.qos}`,
    retain_denied: ' that is retained',
    payload_too_large: ' of that size',
  }
  const what = verdict.reason === undefined ? '' : how[verdict.reason]
  return { reason: verdict.reason ?? 'will_denied', message: `a will${what} on ${topic} is not allowed`, isWill: true }
}

/** Room that a packet needs beside its payload: topic and properties, or the filters of a SUBSCRIBE. */
const packetRoom = 65_536

/** What a client is told in its CONNACK, and held to. */
export function termsOf(
  matcher: Matcher,
  { version, keepAlive }: Connect,
  { receiveMaximum, maxPacketBytes }: LinkLimits,
): Pick<Acceptance, 'serverKeepAlive' | 'properties'> {
  const { limits } = matcher
  const { inFlight, payloadBytes, keepAliveSeconds } = limits
  const held = keepAliveSeconds === undefined ? keepAlive : within(keepAliveSeconds, keepAlive)
  // Before version 5 a client cannot be told. One that says less than it may is taken at its word; one that says more is
  // ended by our clock, as the specification lets a server do at any time (3.1.2.10 of 3.1.1): refused, it would never come in.
  const isHeld = held !== keepAlive && (version === 5 || keepAlive === 0 || held < keepAlive)
  return {
    ...(isHeld ? { serverKeepAlive: held } : {}), // [MQTT-3.1.2-21]
    properties: {
      ...(version === 5 ? announcedOf(matcher) : {}),
      ...(inFlight === undefined ? {} : { receiveMaximum: Math.min(receiveMaximum, inFlight) }),
      ...(payloadBytes === undefined ? {} : { maximumPacketSize: Math.min(maxPacketBytes, payloadBytes + packetRoom) }),
    },
  }
}

/** What only version 5 can be told. */
const announcedOf = ({ maxQos, mayRetain, responseTopic }: Matcher): Acceptance['properties'] => ({
  ...(maxQos === 2 ? {} : { maximumQos: maxQos }),
  ...(mayRetain ? {} : { retainAvailable: false }),
  ...(responseTopic === undefined ? {} : { responseInformation: responseTopic }),
})

/** A keep-alive of 0 is none: the longest there is. */
function within({ min = 1, max }: { min?: number | undefined; max?: number | undefined }, keepAlive: number): number {
  if (keepAlive === 0) return max ?? 0
  return Math.min(Math.max(keepAlive, min), max ?? 0xffff)
}
