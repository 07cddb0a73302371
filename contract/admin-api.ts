/**
 * The admin API: request and answer shapes, shared by enroll, CLI and console. JSON over TLS, under `/v1`.
 * Times are ISO 8601 in UTC; a failure is an RFC 9457 problem (contract/problems.ts). Fields are added, never renamed.
 * docs/openapi.json has every path with what it takes and answers.
 *
 * A write may carry `Idempotency-Key` (8 to 64 letters, digits, `-`): the same key has one effect and one answer.
 */
import { z } from 'zod'
import { denialView } from './denials.ts'
import { deviceAttributes } from './device-attributes.ts'
import { deviceStatuses } from './feed.ts'
import {
  isDeviceId,
  isFingerprint,
  isGroupName,
  isProfileName,
  isSerialNumber,
  nameRule,
  revocationReasons,
  statusReasons,
} from './ids.ts'
import { reloaded } from './live-settings.ts'
import { policyDocument } from './policy-document.ts'

export const deviceId = z.string().refine(isDeviceId, { error: `a device id is ${nameRule}` })
export const groupName = z.string().refine(isGroupName, { error: `a group is ${nameRule}` })
export const profileName = z
  .string()
  .refine(isProfileName, { error: 'a profile is lower-case letters, digits and -, 32 at most' })
export const serialNumber = z
  .string()
  .refine(isSerialNumber, { error: 'a serial number is lower-case hex, two digits an octet' })
const instant = z.iso.datetime({ offset: true, error: 'an instant is an ISO 8601 date and time with its zone' })
export const limit = z.coerce.number().int().min(1).max(1_000).default(100)

/** Of a page: where the one before ended. */
export const cursor = z
  .string()
  .regex(/^[A-Za-z0-9_-]{1,800}$/, 'a cursor is what the page before gave as next')
  .optional()
  .describe('What the page before gave as next, for the same filter; a page may hold fewer than limit, even none')
const paging = { cursor, limit }

/** Shortest to longest life of an enrollment token, in milliseconds. */
export const tokenTtlMs = { min: 60_000, default: 86_400_000, max: 30 * 86_400_000 }

export const createDevice = z.strictObject({
  id: deviceId,
  profile: profileName,
  groups: z.array(groupName).max(16).default([]),
  attributes: deviceAttributes.optional().describe('For policies to look at; of no other meaning'),
})
const labelName = z.string().min(1).max(64)
const factorySerial = z
  .string()
  .regex(/^\P{C}{1,128}$/u, 'a serial number is 1 to 128 characters, none of them a control character')
export const allowDevices = z.strictObject({
  label: labelName,
  groups: z.array(groupName).max(16).default([]).describe('Of devices that are not registered yet'),
  entries: z
    .array(
      z.strictObject({
        serial: factorySerial,
        deviceId,
      }),
    )
    .min(1)
    .max(500),
  otherHardware: z
    .boolean()
    .default(false)
    .describe('Serial numbers of stolen devices are those of another factory here; without it that is refused'),
})
export const disallowDevices = z.strictObject({
  label: labelName,
  serials: z.array(factorySerial).min(1).max(500),
})
export const listAllowances = z.strictObject({
  label: labelName.optional(),
  deviceId: deviceId.optional(),
  ...paging,
})
const wantedAttribute = z.string().regex(/^[^=]{1,64}=.{1,256}$/su, 'an attribute is NAME=VALUE')
export const listDevices = z.strictObject({
  group: groupName.optional(),
  profile: profileName.optional(),
  status: z.enum(deviceStatuses).optional(),
  attribute: z
    .union([wantedAttribute, z.array(wantedAttribute).max(32)])
    .optional()
    .describe('NAME=VALUE; given several times, all of them'),
  serial: serialNumber.optional().describe('Of its current certificate'),
  stolen: z.stringbool().optional(),
  reason: z.enum(revocationReasons).optional().describe('Revoked for this'),
  createdFrom: instant.optional(),
  createdTo: instant.optional().describe('Created before this instant'),
  revokedFrom: instant.optional(),
  revokedTo: instant.optional().describe('Revoked before this instant'),
  ...paging,
})
export const waitMs = z.int().min(0).max(60_000).default(0).describe('How long to wait for every broker to confirm')
export const revokeDevice = z.strictObject({ reason: z.enum(revocationReasons), waitMs })
export const readmitDevice = z.strictObject({
  stolenRecovered: z
    .boolean()
    .default(false)
    .describe('Of one that was reported stolen: somebody has it in hand again'),
})
export const waitForBrokers = z.strictObject({ waitMs })
export const tokenStatuses = ['unspent', 'redeeming', 'spent', 'void'] as const
export const createToken = z.strictObject({
  deviceId,
  ttlMs: z.int().min(tokenTtlMs.min).max(tokenTtlMs.max).default(tokenTtlMs.default),
  profile: profileName.optional().describe('Creates the device with this profile when there is none of that id'),
  groups: z.array(groupName).max(16).optional(),
})
export const listApprovals = z.strictObject({
  decision: z.enum(['pending', 'approved', 'denied']).optional(),
  deviceId: deviceId.optional(),
  profile: profileName.optional(),
  label: labelName.optional(),
  ...paging,
})
export const approveRequest = z.strictObject({
  groups: z.array(groupName).max(16).default([]).describe('Of a device that the approval creates'),
})
export const denyRequest = z.strictObject({
  reason: z
    .string()
    .regex(/^\P{C}{1,200}$/u, 'a reason is 1 to 200 characters, none of them a control character')
    .default('no reason was given')
    .describe('The device is told it'),
})
export const registerCertificate = z.strictObject({
  deviceId,
  pem: z.string().max(20_000).describe('One certificate, of whatever CA'),
})
export const certificateKinds = ['device', 'foreign', 'server', 'broker', 'operator', 'responder', 'auditor'] as const
export const certificateStatuses = ['reserved', 'issued', 'held', 'revoked'] as const
const sha256 = z.string().refine(isFingerprint, { error: 'a fingerprint is 64 lower-case hex digits' })
export const listCertificates = z.strictObject({
  deviceId: deviceId.optional(),
  kind: z.enum(certificateKinds).optional(),
  status: z.enum(certificateStatuses).optional(),
  profile: z.string().max(64).optional(),
  label: labelName.optional().describe('EST label that it was enrolled under'),
  serial: serialNumber.optional(),
  fingerprint: sha256.optional(),
  key: sha256.optional().describe('SHA-256 of its public key (SubjectPublicKeyInfo), as the audit log has it'),
  subject: z.string().max(512).optional().describe('As it is shown, or a part of it such as CN=cam-1'),
  reason: z.enum(statusReasons).optional(),
  issuer: z
    .string()
    .max(256)
    .optional()
    .describe('Of this CA: ours by the label fleetgate or its fingerprint, another by its name as it is shown'),
  issuedFrom: instant.optional(),
  issuedTo: instant.optional().describe('Issued before this instant'),
  revokedFrom: instant.optional(),
  revokedTo: instant.optional().describe('Revoked before this instant'),
  used: z.stringbool().optional().describe('Whether its device has been seen with it'),
  expiresBefore: instant.optional().describe('The first to expire first, those that have expired too'),
  expiresInMs: z.coerce
    .number()
    .int()
    .min(1)
    .max(3_650 * 86_400_000)
    .optional()
    .describe('Those that are good and will have expired by then, the first to expire first'),
  ...paging,
})
export const listTokens = z.strictObject({
  deviceId: deviceId.optional(),
  status: z.enum(tokenStatuses).optional(),
  profile: profileName.optional(),
  ...paging,
})
export const listDenials = z.strictObject({
  deviceId: deviceId.optional(),
  limit: z.coerce.number().int().min(1).max(200).default(50),
})

export const deviceView = z.object({
  id: z.string(),
  profile: z.string(),
  groups: z.array(z.string()),
  attributes: z.record(z.string(), z.string()).optional(),
  status: z.enum(deviceStatuses),
  createdAt: z.string(),
  heldAt: z.string().optional(),
  revokedAt: z.string().optional(),
  revocationReason: z.string().optional(),
  stolenAt: z.string().optional(),
  currentSerial: z.string().optional(),
})
export const allowReceipt = z.object({ added: z.number().describe('How many were not allowed before') })
export const disallowReceipt = z.object({ removed: z.number().describe('How many were allowed before') })
export const allowanceView = z.object({
  label: z.string(),
  serial: z.string().describe('What the factory calls the hardware'),
  deviceId: z.string(),
  createdAt: z.string(),
  otherThan: z
    .array(z.string())
    .optional()
    .describe('Stolen devices of the same serial number, of which an operator said that this is other hardware'),
})
export const tokenView = z.object({
  token: z.string(),
  deviceId: z.string(),
  profile: z.string(),
  expiresAt: z.string(),
})
export const tokenRecordView = z.object({
  id: z.string().describe('SHA-256 of the token'),
  deviceId: z.string(),
  profile: z.string(),
  status: z.enum(tokenStatuses).describe('redeeming: bound to a key, and the certificate is being made'),
  createdAt: z.string(),
  expiresAt: z.string(),
  serial: z.string().optional().describe('Of the certificate that was made by it'),
})
export const approvalView = z.object({
  id: z.string().describe('SHA-256 of the certificate request (DER)'),
  deviceId: z.string(),
  profile: z.string(),
  label: z.string(),
  keyType: z.string(),
  spkiHash: z
    .string()
    .describe('SHA-256 of the public key (SubjectPublicKeyInfo): compare it with what the device shows'),
  proved: z.array(z.string()).describe('What the device has proved beside'),
  remoteAddress: z.string(),
  requestedAt: z.string(),
  expiresAt: z.string(),
  decision: z
    .enum(['pending', 'approved', 'denied', 'issued'])
    .describe('issued: approved, and the certificate was made'),
  decidedAt: z.string().optional(),
  decidedBy: z.string().optional(),
  reason: z.string().optional(),
  serial: z.string().optional().describe('Of the certificate that was made for it'),
  currentSerial: z
    .string()
    .optional()
    .describe('Of the certificate that the device of this name has; shown for one request alone'),
  deviceStatus: z
    .enum(deviceStatuses)
    .optional()
    .describe('Of the device of this name, where there is one; shown for one request alone'),
})
export const certificateView = z.object({
  serial: z.string().describe('Of a foreign certificate its name here, from its fingerprint'),
  kind: z.enum(certificateKinds).describe('foreign: of another CA, registered'),
  deviceId: z.string().optional(),
  profile: z.string(),
  status: z.enum(certificateStatuses),
  subject: z.string().optional(),
  issuer: z.string().optional().describe('Of a foreign certificate, likewise issuerSerial'),
  issuerSerial: z.string().optional(),
  fingerprint: z.string().optional(),
  notBefore: z.string().optional(),
  notAfter: z.string().optional(),
  firstUsedAt: z.string().optional().describe('Of the first session with it, or of its first renewal'),
  supersedesAt: z.string().optional().describe('It is in use: then the older ones of its device are revoked'),
  revokedAt: z.string().optional(),
  revocationReason: z.string().optional(),
  distributionPoint: z.string().optional().describe('The revocation list that its own text names'),
  key: z.string().optional().describe('SHA-256 of its public key (SubjectPublicKeyInfo)'),
  pem: z.string().optional(),
})
const until = z.string().nullable().optional()
export const ends = {
  admitsUntil: until.describe(
    'If it hears nothing of enroll from now on, it lets devices in until then; null: without end',
  ),
  servesUntil: until.describe('And goes on with sessions until then'),
}
const brokerConfirmation = z.object({
  broker: z.string(),
  connected: z.boolean(),
  confirmed: z.boolean(),
  confirmedMs: z
    .number()
    .optional()
    .describe(
      'From the durable commit to the broker saying that it is in force; missing where an earlier call has made it',
    ),
  lastSeenAt: z.string().optional().describe('Of one that is not connected: until then it was'),
  ...ends,
})
const endedSession = z.object({
  broker: z.string(),
  clientId: z.string().optional(),
  listener: z.string(),
  remoteAddress: z.string(),
  state: z.string().describe('How far the connection had come; `live` is a session'),
  isResumed: z.boolean().describe('Its TLS session was resumed from a ticket'),
  connectedAt: z.string(),
  lastPacket: z
    .object({ type: z.string(), topic: z.string().optional(), at: z.string() })
    .optional()
    .describe('The last that was taken from it'),
  closedMs: z
    .number()
    .describe('From the order, its commit included, to the enrollment service knowing its socket to be closed'),
  sinceCommitMs: z
    .number()
    .optional()
    .describe('Of that, what came after the change was on disk; missing where an earlier call has made it'),
  tookMs: z.number().describe('Of that, from the broker having heard to the socket being closed'),
  packetsIn: z.number(),
  bytesIn: z.number(),
  packetsOut: z.number(),
  bytesOut: z.number(),
  publish: z.array(z.string()).describe('Topics its policy let it publish to'),
  subscribe: z.array(z.string()).describe('And read'),
})
export const inForce = {
  feedSeq: z.number(),
  inForce: z.boolean().describe('Every known broker has confirmed'),
  ticketsVoid: z
    .boolean()
    .default(false)
    .describe('No TLS session ticket of it lets anybody in: so it is once every broker has confirmed'),
  crlNumber: z
    .number()
    .optional()
    .describe('Of the revocation lists that carry it; missing where there are none, or not yet'),
  committedMs: z
    .number()
    .optional()
    .describe('From the order to the change being on disk; missing where an earlier call has made it'),
  brokers: z.array(brokerConfirmation),
  sessions: z.array(endedSession).default([]).describe('Connections that were ended, as far as brokers have told'),
}
export const revocationReceipt = z.object({
  deviceId: z.string(),
  reason: z.string(),
  revokedAt: z.string(),
  alreadyRevoked: z.boolean(),
  certificates: z.array(z.string()).describe('Serial numbers revoked by this or an earlier call'),
  tokensVoided: z.number(),
  approvalsDeleted: z.number().default(0).describe('Requests that waited for approval, or were approved and not used'),
  keysWatched: z.number().default(0).describe('Keys that nobody can have certified any more, those by this call'),
  ...inForce,
})
export const certificateReceipt = z.object({
  serial: z.string(),
  deviceId: z.string(),
  reason: z.string(),
  revokedAt: z.string(),
  alreadyRevoked: z.boolean(),
  isCurrent: z.boolean().describe('It was the newest of its device'),
  certificates: z
    .array(z.string())
    .describe('Serial numbers revoked by this call: with keyCompromise, all that the device had for the key'),
  remaining: z.array(z.string()).describe('Serial numbers that the device still has'),
  keysWatched: z.number().describe('Keys that nobody can have certified any more, those by this call'),
  ...inForce,
})
export const theftReceipt = revocationReceipt.extend({
  stolenAt: z.string(),
  alreadyStolen: z.boolean(),
  incident: z.string().describe('Id of the incident that has the evidence'),
  claimCertificate: z
    .string()
    .optional()
    .describe('Fingerprint of the claim certificate that it shares with others, whose key the thief has too'),
  sameHardware: z
    .array(z.string())
    .optional()
    .describe('Devices with a factory certificate for the same key: they are on hold, until somebody enables them'),
  sameSerialNumber: z
    .array(z.string())
    .optional()
    .describe('Devices that came in by the same serial number: nothing was done about them'),
})
export const holdReceipt = z.object({
  deviceId: z.string(),
  status: z.enum(['active', 'held']),
  heldAt: z.string().optional(),
  alreadySo: z.boolean(),
  certificates: z
    .array(z.string())
    .describe('Serial numbers of the certificates that this put on hold, or that count again'),
  ...inForce,
})
export const policyView = z.object({ version: z.number(), at: z.string(), by: z.string(), document: policyDocument })
export const denialPage = z.object({
  items: z.array(denialView),
  unheard: z.array(z.string()).describe('Brokers that did not answer: what they refused is not among the items'),
})
const configurationView = reloaded.omit({ changed: true })
export const statusView = z.object({
  version: z.string(),
  startedAt: z.string(),
  rootFingerprint: z.string(),
  authorities: z
    .object({ issuingEnds: z.string(), rootEnds: z.string() })
    .optional()
    .describe('When the certificates of the CAs end; none that they issue goes on for longer'),
  feedSeq: z.number(),
  configuration: configurationView.optional(),
  revocationLists: z
    .object({
      number: z.number().describe('CRL number of the last lists, 0 before there are any'),
      feedSeq: z.number().describe('They carry what the trust feed says up to here'),
    })
    .optional()
    .describe('Where a status port is configured'),
  brokers: z.array(
    z.object({ id: z.string(), connected: z.boolean(), appliedSeq: z.number(), lastSeenAt: z.string(), ...ends }),
  ),
})

export const pageOf = <T extends z.ZodType>(item: T) => z.object({ items: z.array(item), next: z.string().optional() })

export type CreateDevice = z.input<typeof createDevice>
export type AllowDevices = z.input<typeof allowDevices>
export type DisallowDevices = z.input<typeof disallowDevices>
export type AllowanceView = z.output<typeof allowanceView>
export type ReadmitDevice = z.input<typeof readmitDevice>
export type RegisterCertificate = z.input<typeof registerCertificate>
export type CreateToken = z.input<typeof createToken>
export type DeviceView = z.output<typeof deviceView>
export type TokenView = z.output<typeof tokenView>
export type TokenRecordView = z.output<typeof tokenRecordView>
export type ApproveRequest = z.input<typeof approveRequest>
export type DenyRequest = z.input<typeof denyRequest>
export type ApprovalView = z.output<typeof approvalView>
export type CertificateView = z.output<typeof certificateView>
export type RevocationReceipt = z.output<typeof revocationReceipt>
export type CertificateReceipt = z.output<typeof certificateReceipt>
export type TheftReceipt = z.output<typeof theftReceipt>
export type HoldReceipt = z.output<typeof holdReceipt>
export type PolicyView = z.output<typeof policyView>
export type DenialPage = z.output<typeof denialPage>
export type ConfigurationView = z.output<typeof configurationView>
export type StatusView = z.output<typeof statusView>
