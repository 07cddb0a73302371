/**
 * The audit log as operators and auditors get it, over the admin API and in a file.
 *
 * | method, path         | query        | answer       |
 * |----------------------|--------------|--------------|
 * | GET /v1/audit        | listAudit    | auditPage    |
 * | GET /v1/audit/about  | aboutAudit   | aboutPage    |
 * | GET /v1/audit/seal   | sealAudit    | auditSeal    |
 * | GET /v1/audit/chain  | chainAudit   | chainPage    |
 *
 * The log is a hash chain: hash(n) = SHA-256(hash(n-1), body(n)), hashes as octets. Now and then the gateway signs where it stands, a
 * checkpoint: `checkpointBody`. What is signed is `fleetgate KIND 1`, a line feed and the body, by ECDSA on P-256 with SHA-256, with a key
 * that the issuing CA has certified for signing documents; KIND is `audit checkpoint` or `audit seal`.
 *
 * An export is one object of `auditLine` a line: `log`, then entries as they are stored, each checkpoint behind the entry that it is about, and
 * at the end the `seal`, which says from where to where the export goes.
 */
import { z } from 'zod'
import { isDeviceId, isFingerprint, isSerialNumber, nameRule } from './ids.ts'

const limit = z.coerce.number().int().min(1).max(1_000).default(100).describe('Items in a page, 1 to 1,000')
const instant = z.iso.datetime({ offset: true })
const after = z.coerce.number().int().min(0)

export const listAudit = z.strictObject({
  after: after.optional().describe('Entries with a higher number; without it, the last ones'),
  limit,
  waitMs: z.coerce
    .number()
    .int()
    .min(0)
    .max(30_000)
    .default(0)
    .describe('Waits this long for an entry when there is none'),
  action: z
    .string()
    .max(100)
    .optional()
    .describe('Of this action alone, or with a * at the end of those that begin so'),
  actor: z.string().max(300).optional().describe('Likewise of whoever did it'),
  subject: z.string().max(300).optional().describe('Likewise of what it was done to'),
  outcome: z.enum(['done', 'refused', 'intended']).optional(),
  since: instant.optional().describe('From this time on, the first ones; without it or `after` the last ones'),
})
export const sealAudit = z.strictObject({
  since: instant.optional().describe('From the first entry of this time on'),
  until: instant.optional().describe('And before this time'),
})
const subject = {
  device: z.string().refine(isDeviceId, `a device id is ${nameRule}`).optional(),
  serial: z.string().refine(isSerialNumber, 'a serial number is hex digits, two an octet').optional(),
  fingerprint: z.string().refine(isFingerprint, 'a SHA-256 is 64 lower-case hex digits').optional(),
}
export const aboutAudit = z
  .strictObject({ ...subject, after: z.string().max(100).optional(), limit })
  .refine(
    ({ device, serial, fingerprint }) => [device, serial, fingerprint].filter((one) => one !== undefined).length === 1,
    'one of device, serial and fingerprint is wanted',
  )
export const chainAudit = z.strictObject({ after, limit: limit.default(1_000) })

export const auditView = z.looseObject({
  seq: z.number(),
  at: z.string(),
  action: z.string(),
  actor: z.string(),
  subject: z.string(),
  outcome: z.string(),
  reason: z.string().optional(),
  requestId: z.string(),
})
export const auditPage = z.object({
  items: z.array(auditView),
  next: z.number().describe('Pass as `after` for what follows'),
})

/** What there is about a device or a certificate, the first entry first. */
export const aboutPage = z.object({
  about: z.string().describe('device:ID or certificate:SERIAL'),
  items: z.array(auditView),
  next: z.string().optional(),
})

/** A place in the log: the number of an entry and the chain's hash there. */
const place = z.object({ seq: z.int().min(0), hash: z.string().regex(/^[0-9a-f]{64}$/) })
const statement = z.object({ body: z.string(), signature: z.base64(), certificate: z.base64() })

/** What a checkpoint says. `previous` is the SHA-256 of the body of the one before, 64 zeros for the first. */
export const checkpointBody = place.extend({
  number: z.int().min(1),
  at: instant,
  previous: place.shape.hash,
})
/** What the end of an export says: all that there was between the two places, when it was made. */
export const sealBody = z.object({
  from: place,
  to: place,
  before: z.int().min(0).describe('Number of the last checkpoint up to `from`, 0 for none'),
  last: z.int().min(0).describe('And of the last one up to `to`'),
  at: instant,
})

const log = z.object({
  kind: z.literal('log'),
  format: z.literal(1),
  from: place.describe('The first entry is the one behind it'),
  authorities: z.array(z.string()).describe('PEM of the CA certificates, the root first'),
})
const entry = place.extend({ kind: z.literal('entry'), body: z.string() })
const checkpoint = statement.extend({ kind: z.literal('checkpoint') })
const seal = statement.extend({ kind: z.literal('seal') })
export const auditLine = z.discriminatedUnion('kind', [log, entry, checkpoint, seal])
export type AuditLine = z.output<typeof auditLine>

export const auditSeal = z.object({ log, to: place, seal })
export const chainPage = z.object({
  items: z.array(z.discriminatedUnion('kind', [entry, checkpoint])),
  next: z.number().describe('Pass as `after` for what follows'),
})

export type AuditView = z.output<typeof auditView>
export type AuditPage = z.output<typeof auditPage>
export type AboutPage = z.output<typeof aboutPage>
export type AuditSeal = z.output<typeof auditSeal>
export type ChainPage = z.output<typeof chainPage>
export type AuditQuery = {
  after?: number
  limit?: number
  waitMs?: number
  action?: string
  actor?: string
  outcome?: string
  since?: string
}
export type CheckpointBody = z.output<typeof checkpointBody>
export type SealBody = z.output<typeof sealBody>
export const checkpointKind = 'audit checkpoint'
export const sealKind = 'audit seal'
