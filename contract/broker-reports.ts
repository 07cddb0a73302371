/**
 * What a broker tells enroll of its own accord, over the trust feed: each at least once, and again after a loss of the
 * connection or of the broker, until enroll has noted it. Fields are added, never renamed.
 */
import { z } from 'zod'
import { isDenialId } from './denials.ts'
import { deviceStatuses } from './feed.ts'
import { isDeviceId, isFingerprint, isSerialNumber } from './ids.ts'
import { verificationStates } from './verification.ts'

const text = (atMost: number) => z.string().max(atMost)
const at = z.iso.datetime()
const count = z.number().min(0)
const known = (isKnown: (text: string) => boolean) => z.string().refine((text) => isKnown(text))
const deviceId = known(isDeviceId)
const serial = known(isSerialNumber)
const fingerprint = known(isFingerprint)

/** Longer texts are cut before they are sent, and not taken as they are. */
export const reportBounds = { topic: 1_024, topics: 64, clientId: 200, name: 100, detail: 300, certificates: 8 }

const peer = {
  listener: text(reportBounds.name),
  remoteAddress: text(reportBounds.name),
  clientId: text(reportBounds.clientId).optional(),
}

export const sessionCut = z.object({
  type: z.literal('session.cut'),
  at,
  reason: text(reportBounds.name).describe('A problem code'),
  ...peer,
  deviceId: deviceId.optional(),
  serial: serial.optional(),
  fingerprint: fingerprint.optional(),
  state: z.enum(['handshaken', 'connecting', 'live', 'quarantined']).describe('How far the connection had come'),
  isResumed: z.boolean().describe('Its TLS session was resumed from a ticket'),
  connectedAt: at,
  lastPacket: z
    .object({ type: text(reportBounds.name), topic: text(reportBounds.topic).optional(), at })
    .optional()
    .describe('The last that was taken from it'),
  tookMs: count.describe('From the broker having heard to the socket being closed'),
  packetsIn: count,
  bytesIn: count,
  packetsOut: count,
  bytesOut: count,
  publish: z.array(text(reportBounds.topic)).max(reportBounds.topics).describe('Topics its policy let it publish to'),
  subscribe: z.array(text(reportBounds.topic)).max(reportBounds.topics).describe('And read'),
})
export const certificateUsed = z.object({
  type: z.literal('certificate.used'),
  at,
  ...peer,
  deviceId,
  serial,
  fingerprint,
})
export const alert = z.object({
  type: z.literal('alert'),
  at,
  kind: z.enum(['stolen', 'clone', 'key_reused']),
  ...peer,
  deviceId: deviceId.optional(),
  serial: serial.optional(),
  fingerprint: fingerprint.optional(),
  detail: text(reportBounds.detail),
  count: z.int().min(1).describe('How often, since the last report of the same'),
})
export const verdict = z.object({
  type: z.literal('verdict'),
  at,
  ...peer,
  deviceId: deviceId.optional(),
  serial,
  fingerprint,
  verification: z.enum(verificationStates),
  action: z.enum(['reject', 'quarantine', 'grace', 'log-only']),
  reason: text(reportBounds.name).describe('A problem code'),
  detail: text(reportBounds.detail),
  denial: known(isDenialId).optional(),
  count: z.int().min(1).describe('How often, since the last report of the same'),
})

/** Of a device that enroll no longer knows as such: it was restored from a backup, and the broker had heard more. */
export const revocationKept = z.object({
  type: z.literal('revocation.kept'),
  at,
  deviceId,
  status: z.enum(deviceStatuses).describe('Of the device, as the broker has it in force'),
  certificates: z
    .array(z.object({ fingerprint, reason: text(reportBounds.name) }))
    .max(reportBounds.certificates)
    .describe('Of those that were revoked, the first ones'),
})

export const brokerReport = z.discriminatedUnion('type', [sessionCut, certificateUsed, alert, verdict, revocationKept])
export type RevocationKept = z.output<typeof revocationKept>
export type SessionCut = z.output<typeof sessionCut>
export type CertificateUsed = z.output<typeof certificateUsed>
export type Alert = z.output<typeof alert>
export type VerdictReached = z.output<typeof verdict>
export type BrokerReport = z.output<typeof brokerReport>

const reportId = /^[0-9a-f-]{8,64}$/
export const isReportId = (id: unknown): id is string => typeof id === 'string' && reportId.test(id)

/**
 * Of the text of a report, in UTF-16 units: every bound above reached, and each unit written as an escape of six. A longer one is not
 * looked at.
 */
export const maxReportLength = 6 * (2 * reportBounds.topics + 1) * reportBounds.topic + 8_192

/** Reports of one broker that may be under way and not noted yet. */
export const maxReportsUnderWay = 100
