/** What the feed says, read as from a stranger. */
import { X509Certificate } from 'node:crypto'
import { z } from 'zod'
import { deviceAttributes } from '../../contract/device-attributes.ts'
import { deviceStatuses, purgeKinds } from '../../contract/feed.ts'
import { isDeviceId, isFingerprint, isGroupName, isProfileName, isSerialNumber } from '../../contract/ids.ts'
import { policyDocument } from '../../contract/policy-document.ts'
import { FleetError } from '../../runtime/errors.ts'

const deviceId = z.string().refine(isDeviceId)
const fingerprint = z.string().refine(isFingerprint)
const serial = z.string().refine(isSerialNumber)
const at = z.string()
const instant = z.iso.datetime({ offset: true })
// One that OpenSSL cannot read would stop the listener, at every start again.
const anchor = z.string().refine((pem) => {
  try {
    return new X509Certificate(pem).ca
  } catch {
    return false
  }
}, 'PEM of a CA certificate')
export const fact = z.discriminatedUnion('type', [
  z.object({ type: z.literal('trust.changed'), at, data: z.object({ anchors: z.array(anchor) }) }),
  z.object({ type: z.literal('policy.changed'), at, data: z.object({ version: z.int(), document: policyDocument }) }),
  z.object({
    type: z.literal('device.changed'),
    at,
    data: z.object({
      id: deviceId,
      profile: z.string().refine(isProfileName),
      groups: z.array(z.string().refine(isGroupName)),
      attributes: deviceAttributes.optional(),
      status: z.enum(deviceStatuses),
      purge: z.object({ retained: instant.exactOptional(), queued: instant.exactOptional() }).optional(),
      kept: z.array(z.enum(purgeKinds)).optional(),
      stolen: z.literal(true).optional(),
    }),
  }),
  z.object({
    type: z.literal('certificate.issued'),
    at,
    data: z.object({ serial, fingerprint, deviceId, notAfter: instant, via: z.string().optional() }),
  }),
  z.object({
    type: z.literal('certificate.expiring'),
    at,
    data: z.object({ serial, fingerprint, deviceId, notAfter: instant }),
  }),
  z.object({
    type: z.literal('certificate.revoked'),
    at,
    data: z.object({ serial, fingerprint, deviceId, reason: z.string(), watchedKey: fingerprint.optional() }),
  }),
  z.object({ type: z.literal('credential.revoked'), at, data: z.object({ serial, fingerprint }) }),
  z.object({
    type: z.literal('alert.raised'),
    at: instant,
    data: z.object({
      kind: z.string(),
      deviceId: deviceId.exactOptional(),
      remoteAddress: z.string(),
      message: z.string(),
      count: z.int().min(1),
      incident: z.string().exactOptional(),
    }),
  }),
])
export type Fact = z.output<typeof fact>
export const facts = z.array(fact)
export const place = z.object({ seq: z.int().min(0), hash: fingerprint })

/** @throws FleetError `data_damaged` */
export function parseAs<T extends z.ZodType>(schema: T, said: () => unknown, what: string): z.output<T> {
  try {
    return schema.parse(said())
  } catch (cause) {
    // To step over what cannot be read could be to step over a revocation.
    throw new FleetError('data_damaged', `${what} cannot be read`, { cause })
  }
}
