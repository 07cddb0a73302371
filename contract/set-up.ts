/** What `fleetgate init` and `fleetgate keys` tell of a data folder. */
import { z } from 'zod'

export const setUpSummary = z.strictObject({
  rootFingerprint: z.string().describe('SHA-256 of the root certificate, hex'),
  running: z.boolean().describe('A gateway has the folder open and keeps it; nothing was looked at'),
  made: z.array(z.string()).describe('Files that there were not before, below the data folder'),
  renewed: z
    .array(z.string())
    .describe('Certificates in place of one that ends soon, was of other names, or is not known'),
})
export type SetUpSummary = z.output<typeof setUpSummary>

export const sealedKeys = z.strictObject({
  sealed: z.array(z.string()).describe('Keys that were written anew, below the data folder'),
  kept: z.array(z.string()).describe('Those that were so already'),
})
export type SealedKeys = z.output<typeof sealedKeys>
