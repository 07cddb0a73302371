import type { ProblemCode } from '../../contract/problems.ts'
import { FleetError } from '../../runtime/errors.ts'

/** Where a reason code may stand. DISCONNECT and AUTH have a list for each side that sends them. */
export type ReasonCarrier =
  | 'connack'
  | 'puback'
  | 'pubrec'
  | 'pubrel'
  | 'pubcomp'
  | 'suback'
  | 'unsuback'
  | 'clientDisconnect'
  | 'serverDisconnect'
  | 'clientAuth'
  | 'serverAuth'

type Row = { code: number; in: readonly ReasonCarrier[]; older?: ConnackCode }

/** Return codes of a CONNACK before version 5 (MQTT 3.1.1 table 3.1). */
export type ConnackCode = 0 | 1 | 2 | 3 | 4 | 5

const disconnects = ['clientDisconnect', 'serverDisconnect'] as const

/**
 * MQTT 5 table 2-6, with the tables of the single packets where they are narrower. `older` is what a CONNACK of versions
 * 3 and 4 says for it; where there is none the connection is closed without a CONNACK ([MQTT-3.2.2-6] of 3.1.1).
 */
const table = {
  success: {
    code: 0x00,
    in: ['connack', 'puback', 'pubrec', 'pubrel', 'pubcomp', 'suback', 'unsuback', 'clientDisconnect', 'serverAuth'],
    older: 0,
  },
  grantedQos1: { code: 0x01, in: ['suback'] },
  grantedQos2: { code: 0x02, in: ['suback'] },
  disconnectWithWill: { code: 0x04, in: ['clientDisconnect'] },
  noMatchingSubscribers: { code: 0x10, in: ['puback', 'pubrec'] },
  noSubscriptionExisted: { code: 0x11, in: ['unsuback'] },
  continueAuthentication: { code: 0x18, in: ['clientAuth', 'serverAuth'] },
  reauthenticate: { code: 0x19, in: ['clientAuth'] },
  unspecifiedError: {
    code: 0x80,
    in: ['connack', 'puback', 'pubrec', 'suback', 'unsuback', ...disconnects],
    older: 3,
  },
  malformedPacket: { code: 0x81, in: ['connack', ...disconnects] },
  protocolError: { code: 0x82, in: ['connack', ...disconnects] },
  implementationSpecificError: {
    code: 0x83,
    in: ['connack', 'puback', 'pubrec', 'suback', 'unsuback', ...disconnects],
    older: 3,
  },
  unsupportedProtocolVersion: { code: 0x84, in: ['connack'], older: 1 },
  clientIdentifierNotValid: { code: 0x85, in: ['connack'], older: 2 },
  badUserNameOrPassword: { code: 0x86, in: ['connack'], older: 4 },
  notAuthorized: {
    code: 0x87,
    in: ['connack', 'puback', 'pubrec', 'suback', 'unsuback', 'serverDisconnect'],
    older: 5,
  },
  serverUnavailable: { code: 0x88, in: ['connack'], older: 3 },
  serverBusy: { code: 0x89, in: ['connack', 'serverDisconnect'], older: 3 },
  banned: { code: 0x8a, in: ['connack'], older: 5 },
  serverShuttingDown: { code: 0x8b, in: ['serverDisconnect'] },
  badAuthenticationMethod: { code: 0x8c, in: ['connack'] },
  keepAliveTimeout: { code: 0x8d, in: ['serverDisconnect'] },
  sessionTakenOver: { code: 0x8e, in: ['serverDisconnect'] },
  topicFilterInvalid: { code: 0x8f, in: ['suback', 'unsuback', 'serverDisconnect'] },
  topicNameInvalid: { code: 0x90, in: ['connack', 'puback', 'pubrec', ...disconnects] },
  packetIdentifierInUse: { code: 0x91, in: ['puback', 'pubrec', 'suback', 'unsuback'] },
  packetIdentifierNotFound: { code: 0x92, in: ['pubrel', 'pubcomp'] },
  receiveMaximumExceeded: { code: 0x93, in: [...disconnects] },
  topicAliasInvalid: { code: 0x94, in: [...disconnects] },
  packetTooLarge: { code: 0x95, in: ['connack', ...disconnects] },
  messageRateTooHigh: { code: 0x96, in: [...disconnects] },
  quotaExceeded: { code: 0x97, in: ['connack', 'puback', 'pubrec', 'suback', ...disconnects], older: 3 },
  administrativeAction: { code: 0x98, in: [...disconnects] },
  payloadFormatInvalid: { code: 0x99, in: ['connack', 'puback', 'pubrec', ...disconnects] },
  retainNotSupported: { code: 0x9a, in: ['connack', 'serverDisconnect'], older: 5 },
  qosNotSupported: { code: 0x9b, in: ['connack', 'serverDisconnect'], older: 5 },
  useAnotherServer: { code: 0x9c, in: ['connack', 'serverDisconnect'], older: 3 },
  serverMoved: { code: 0x9d, in: ['connack', 'serverDisconnect'], older: 3 },
  sharedSubscriptionsNotSupported: { code: 0x9e, in: ['suback', 'serverDisconnect'] },
  connectionRateExceeded: { code: 0x9f, in: ['connack', 'serverDisconnect'], older: 3 },
  maximumConnectTime: { code: 0xa0, in: ['serverDisconnect'] },
  subscriptionIdentifiersNotSupported: { code: 0xa1, in: ['suback', 'serverDisconnect'] },
  wildcardSubscriptionsNotSupported: { code: 0xa2, in: ['suback', 'serverDisconnect'] },
} as const satisfies Record<string, Row>

export type ReasonName = keyof typeof table
const rows: readonly [ReasonName, Row][] = Object.entries(table) as [ReasonName, Row][]

/** Code by name: `reason.notAuthorized` is 0x87. */
export const reason = Object.fromEntries(rows.map(([name, row]) => [name, row.code])) as {
  readonly [Name in ReasonName]: (typeof table)[Name]['code']
}

const names = new Map<number, ReasonName>(rows.map(([name, row]) => [row.code, name]))
const olderCodes = new Map<number, ConnackCode>(
  rows.flatMap(([, row]) => (row.older === undefined ? [] : [[row.code, row.older]])),
)

const carriers = Object.fromEntries(
  rows.flatMap(([, row]) => row.in).map((carrier) => [carrier, new Uint8Array(256)]),
) as Record<ReasonCarrier, Uint8Array>
for (const [, row] of rows) for (const carrier of row.in) carriers[carrier][row.code] = 1

/** @returns the name that logs, metrics and vectors use, undefined for a code that MQTT 5 does not know */
export const reasonName = (code: number): ReasonName | undefined => names.get(code)

/** @returns whether the tables of MQTT 5 let `code` stand in such a packet */
export const mayCarry = (carrier: ReasonCarrier, code: number): boolean => carriers[carrier][code] === 1

/** @returns the return code for a CONNACK of versions 3 and 4; undefined: the connection is closed without a word */
export const connackCode = (code: number): ConnackCode | undefined => olderCodes.get(code)

const meanings = [
  reason.success,
  reason.unsupportedProtocolVersion,
  reason.clientIdentifierNotValid,
  reason.serverUnavailable,
  reason.badUserNameOrPassword,
  reason.notAuthorized,
] as const

/** @returns what a return code of versions 3 and 4 means in version 5's words, undefined when it is reserved */
export const reasonOfConnackCode = (code: number): number | undefined => meanings[code]

/**
 * One octet of a SUBACK of versions 3 and 4. Only 3.1.1 defines 0x80; MQTT 3.1 has no word for a refused subscription,
 * and 0x80 is nearer to the truth there than a QoS that was not granted.
 */
export const subackCode = (code: number): number => (code < 0x80 ? code : 0x80)

/** Whether the code says that something was refused (MQTT 5, 2.4). */
export const isRefusal = (code: number): boolean => code >= 0x80

/** A packet over what the client was told is refused by the name that the policy has for it. */
const problems = new Map<number, ProblemCode>([
  [reason.packetTooLarge, 'packet_too_large'],
  [reason.qosNotSupported, 'qos_denied'],
  [reason.retainNotSupported, 'retain_denied'],
])

/**
 * Bytes that are not the MQTT packet they should be. `reason` is the MQTT 5 code that says why. `version` is set when a
 * CONNECT was refused and told its version: a CONNACK in that version can say so (`reason` for 5, `connackCode(reason)`
 * before), otherwise the connection is closed.
 */
export class Malformed extends FleetError {
  readonly reason: number
  version: 3 | 4 | 5 | undefined

  constructor(code: number, sentence: string) {
    super(problems.get(code) ?? 'protocol_violation', sentence)
    this.reason = code
    this.version = undefined
  }
}

export const malformed = (sentence: string): Malformed => new Malformed(reason.malformedPacket, sentence)
export const protocolError = (sentence: string): Malformed => new Malformed(reason.protocolError, sentence)
