/**
 * A backup: one line of JSON, `backupHead`, then a sealed stream (runtime/sealed-stream.ts) of gzip of lines of JSON, `backupLine`. The key of the
 * stream is scrypt of the passphrase (UTF-8), 32 octets, with the parameters of the head.
 */
import { z } from 'zod'

export const backupHead = z.object({
  fleetgateBackup: z.literal(1),
  kdf: z.literal('scrypt'),
  // What a file may make its reader spend: 1 GiB.
  N: z.union([14, 15, 16, 17, 18, 19, 20].map((bits) => z.literal(2 ** bits))),
  r: z.literal(8),
  p: z.literal(1),
  salt: z.base64().length(44),
  records: z.int().min(0).describe('How many there are, for a progress bar; what is sealed says it too'),
})
export type BackupHead = z.output<typeof backupHead>

/** Where a file of a backup may come to lie in the data folder. */
const path = z
  .string()
  .regex(/^(?:(?:enroll\/ca|services\/[a-z]+|operator|configuration)\/)?[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/)

export const backupLine = z.discriminatedUnion('kind', [
  z.object({
    kind: z.literal('backup'),
    createdAt: z.iso.datetime(),
    version: z.string().describe('Of Fleetgate'),
    rootFingerprint: z.string(),
    records: z.int().min(0).describe('Of the registry, its indexes and logs'),
  }),
  z.object({ kind: z.literal('file'), path, mode: z.int().min(0).max(0o777), data: z.base64() }),
  z.object({ kind: z.literal('records'), items: z.array(z.tuple([z.string(), z.string()])).max(1_000) }),
  z.object({ kind: z.literal('end'), records: z.int(), files: z.int() }),
])
export type BackupLine = z.output<typeof backupLine>

export const createBackup = z.strictObject({
  key: z.base64().length(44).describe('32 octets that the stream is sealed with; nobody here keeps them'),
})

/** What a restore, or a look at a backup, has found. */
export const backupSummary = z.object({
  createdAt: z.string(),
  version: z.string(),
  rootFingerprint: z.string(),
  records: z.number(),
  files: z.number(),
  auditEntries: z.number(),
  feedEvents: z.number(),
})
export type BackupSummary = z.output<typeof backupSummary>
