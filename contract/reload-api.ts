/** A part of the admin API: what is in force after the configuration was read once more. */
import { z } from 'zod'
import { reloaded } from './live-settings.ts'
import { unheard } from './session-api.ts'

export const reloadReceipt = reloaded.extend({
  file: z.string().optional().describe('What was read; missing where the service was started without a file'),
  brokers: z
    .array(reloaded.extend({ broker: z.string() }))
    .describe('Each of the configuration that it reads itself; not asked where enroll has refused its own'),
  unheard,
})
export type ReloadReceipt = z.output<typeof reloadReceipt>
