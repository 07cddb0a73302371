/** Settings of what runs beside the services of a gateway: clones, status port, audit log, brokers that are cut off. */
import { z } from 'zod'
import { address } from './listeners.ts'
import { parseNetwork } from './networks.ts'

const network = z
  .string()
  .refine((text) => parseNetwork(text) !== undefined, 'a network is wanted, such as 192.0.2.0/24 or 2001:db8::/48')

export const brokerIdRule = '1 to 64 letters, digits, ".", "_" and "-", the first a letter or digit'
const brokerIds = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/
export const isBrokerId = (text: string): boolean => brokerIds.test(text)
export const brokerId = z.string().regex(brokerIds)

export const clones = z.strictObject({
  action: z
    .enum(['off', 'alert', 'hold'])
    .default('alert')
    .describe(
      'When one key is used in two places: alert, and suspend the key for a while at the broker that saw it, or at all where it was seen at two; or hold the device everywhere too, until somebody enables it. Enroll reads it too, and passes on nothing of who is where with `off`',
    ),
  suspendMs: z
    .int()
    .min(1_000)
    .max(24 * 3_600_000)
    .default(60_000)
    .describe('How long a key is suspended the first time; twice as long each time it is seen again, up to an hour'),
  maxSuspended: z
    .int()
    .min(0)
    .default(10)
    .describe(
      'Keys that may be suspended at a time, those in an hour that two brokers have seen at both, and devices held in an hour; beyond, an alert is all. So many clones at once are none',
    ),
  overlapMs: z
    .int()
    .min(1_000)
    .default(10_000)
    .describe(
      'How long two places may be there, and heard, at a time: a device that changes networks is in both for a moment',
    ),
  sites: z
    .record(
      z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/),
      z.array(network).min(1).describe('One network or more'),
    )
    .default({})
    .describe('Networks that are one place, by its name, as those of a site with two uplinks'),
})
const hour = 3_600_000
export const status = z.strictObject({
  listen: address
    .default('0.0.0.0:8480')
    .describe('Revocation lists, OCSP and CA certificates over plain HTTP, for whoever has to trust a certificate'),
  url: z
    .string()
    .max(100)
    .regex(
      /^http:\/\/[A-Za-z0-9.-]+(:\d{1,5})?(\/[A-Za-z0-9._/-]*[A-Za-z0-9._-])?$/,
      'an http:// URL without a slash at its end is wanted',
    )
    .optional()
    .describe(
      'What that is reached by; without it there is no such port. It stands in every device certificate: choose a short name that stays, and no https (RFC 5280 8)',
    ),
  shards: z
    .int()
    .min(1)
    .max(256)
    .default(16)
    .describe('Revocation lists that new certificates are spread over; lists that older certificates name are kept'),
  everyMs: z
    .int()
    .min(60_000)
    .max(7 * 24 * hour)
    .default(12 * hour)
    .describe('Lists are signed this often even if nobody was revoked; whoever is, is on them at once'),
  overlapMs: z
    .int()
    .min(hour)
    .max(30 * 24 * hour)
    .default(72 * hour)
    .describe('How long a list still holds after the next one was due: the time to repair what has stopped'),
  ocspValidityMs: z
    .int()
    .min(60_000)
    .max(72 * hour)
    .default(6 * hour)
    .describe('From thisUpdate to nextUpdate of an OCSP answer'),
  maxAgeMs: z
    .int()
    .min(0)
    .max(24 * hour)
    .default(300_000)
    .describe('How long a cache may answer without asking again: how late a revocation may be known through it'),
  maxConnections: z.int().min(1).default(1_000).describe('Open connections, all peers together'),
})
export type StatusSettings = z.output<typeof status> & { url: string }
export const audit = z.strictObject({
  keepDays: z
    .int()
    .min(1)
    .max(36_500)
    .optional()
    .describe(
      'Entries older than this go, up to a checkpoint, which the log begins with then, if the clock has gone on for an hour as it should; without it none ever goes',
    ),
  checkpointEntries: z
    .int()
    .min(1)
    .max(1_000_000)
    .default(1_000)
    .describe('After so many entries the audit log is signed as it stands: what is before cannot be changed unseen'),
  checkpointEveryMs: z
    .int()
    .min(1_000)
    .max(7 * 24 * hour)
    .default(hour)
    .describe('And after so long, if there are new ones; and when the service stops'),
})
export type AuditSettings = z.output<typeof audit>
export const stale = z.strictObject({
  afterMs: z
    .int()
    .min(1_000)
    .max(10 * 365 * 86_400_000)
    .default(3_600_000)
    .describe(
      'Without word from enroll for so long, the broker does not know any more who is revoked: new connections meet the verification state stale_status',
    ),
  sessions: z
    .enum(['keep', 'end'])
    .default('keep')
    .describe(
      'Then, of sessions that were let in before: keep them until their certificates end, or end those that could not connect now',
    ),
  silenceMs: z
    .int()
    .min(200)
    .max(600_000)
    .default(10_000)
    .describe('A connection to enroll that says nothing for so long, though it is asked, is taken for lost'),
})
export type StaleSettings = z.output<typeof stale>
