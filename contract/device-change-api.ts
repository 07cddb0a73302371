import { z } from 'zod'
import { groupName, profileName } from './admin-api.ts'
import { attributeChanges } from './device-attributes.ts'

export const changeDevice = z
  .strictObject({
    profile: profileName.optional().describe('Its certificate stays as it is; the next is of this profile'),
    groups: z.array(groupName).max(16).optional().describe('All of them, in place of those it is in'),
    attributes: attributeChanges
      .optional()
      .describe('Sets those with a text, takes away those with null, leaves the others'),
    dryRun: z.boolean().default(false).describe('Answers with what it would be, and changes nothing'),
  })
  .refine(({ profile, groups, attributes }) => (profile ?? groups ?? attributes) !== undefined, {
    error: 'there is nothing to change; give profile, groups or attributes',
  })

export type ChangeDevice = z.input<typeof changeDevice>
