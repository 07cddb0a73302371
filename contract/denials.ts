/** What is kept of a refusal, by broker and enroll alike: enough to say later why it was, and what would have let it pass. */
import { z } from 'zod'
import { type ProblemCode, problems } from './problems.ts'
import { verificationStates } from './verification.ts'

/** Where something was refused. `session`: a connection that was in had to go. */
export const denialStages = [
  'tls',
  'connect',
  'will',
  'subscribe',
  'publish',
  'delivery',
  'session',
  'enrollment',
] as const
export type DenialStage = (typeof denialStages)[number]

/** Problems of operators, of the command line and of the set-up: no device or stranger is refused for one. */
export const ownProblems = [
  'forbidden',
  'role_insufficient',
  'precondition_failed',
  'operator_unknown',
  'operator_exists',
  'operator_disabled',
  'api_token_invalid',
  'api_token_expired',
  'api_token_unknown',
  'api_token_exists',
  'device_exists',
  'approval_unknown',
  'late_renewal_unknown',
  'last_operator',
  'denial_unknown',
  'certificate_unknown',
  'gateway_untrusted',
  'renewal_due',
  'unhealthy',
  'interrupted',
  'audit_broken',
  'backup_unreadable',
  'config_invalid',
  'policy_invalid',
  'port_in_use',
  'data_in_use',
  'key_permissions',
  'key_passphrase',
] as const satisfies ProblemCode[]
export type DenialCause = Exclude<ProblemCode, (typeof ownProblems)[number]>

const denialId = /^[0-9a-f]{12}$/
export const isDenialId = (text: string): boolean => denialId.test(text)

/** `value` takes the place of what stands at `path` of a statement; with an empty path it is a new statement. */
export const policyEdit = z.object({ statement: z.string(), path: z.string(), value: z.unknown() })
export type PolicyEdit = z.output<typeof policyEdit>

export const denialFix = z.object({
  kind: z
    .enum(['policy', 'command', 'configuration', 'device', 'wait'])
    .describe('What has to change: the policy, something a command does, the configuration, the device, or nothing'),
  text: z.string().describe('For people: one sentence, and what to type or write'),
  edits: z.array(policyEdit).optional().describe('Of the policy; tried before they were suggested'),
  command: z.array(z.string()).optional().describe('Words behind `fleetgate`'),
  setting: z.object({ path: z.string(), value: z.unknown() }).optional().describe('Of the configuration'),
})
export type DenialFix = z.output<typeof denialFix>

export const problemCode = z
  .custom<ProblemCode>((code) => typeof code === 'string' && Object.hasOwn(problems, code))
  .meta({ type: 'string' })

const certificateFacts = z.object({
  subject: z.string(),
  issuer: z.string(),
  serial: z.string(),
  fingerprint: z.string(),
  notBefore: z.string(),
  notAfter: z.string(),
})

export const denialView = z.object({
  id: z.string().refine(isDenialId),
  stage: z.enum(denialStages),
  cause: problemCode,
  message: z.string(),
  count: z.int().describe('How often the same was refused'),
  firstAt: z.string(),
  lastAt: z.string(),
  isMixed: z.boolean().optional().describe('More than could be kept apart; what is told is the first of them'),
  by: z.string().describe('Name of the broker, or enroll'),
  listener: z.string().optional(),
  state: z.enum(verificationStates).optional().describe('What verification of the peer found'),
  action: z.string().optional().describe('What the listener does about that'),
  remoteAddress: z.string().optional(),
  deviceId: z.string().optional(),
  clientId: z.string().optional(),
  claimedId: z.string().optional().describe('What it called itself at enrollment; nothing has shown it to be so'),
  path: z.string().optional().describe('Of an enrollment request'),
  asked: z
    .object({
      action: z.enum(['publish', 'subscribe', 'receive']),
      topic: z.string(),
      qos: z.number(),
      retain: z.boolean(),
      bytes: z.number(),
    })
    .optional(),
  needed: z.number().optional().describe('Where a number was exceeded: what would have been enough'),
  certificate: certificateFacts.optional(),
  variables: z.record(z.string(), z.array(z.string())).describe('What a policy could look at'),
  policyVersion: z.number().optional(),
  statements: z
    .array(z.object({ statement: z.string(), because: z.string() }))
    .optional()
    .describe('Of the policy: those that were tried, and why none of them allowed it'),
  nearest: z.object({ statement: z.string(), because: z.string() }).optional(),
  fix: denialFix.optional(),
})
export type Denial = z.output<typeof denialView>
/** What it takes to explain one that was, or that would be. */
export type Refusal = Omit<Denial, 'id' | 'count' | 'lastAt' | 'by'>
export type DenialAsked = NonNullable<Denial['asked']>

/** Which denials are wanted: that one, or the last ones. */
export const denialQuery = z.object({
  id: z.string().refine(isDenialId).optional(),
  deviceId: z.string().optional(),
  limit: z.int().min(1).max(200),
})
export type DenialQuery = z.output<typeof denialQuery>

/** Newest first. */
export const byLastAt = (a: Denial, b: Denial): number => (a.lastAt < b.lastAt ? 1 : a.lastAt > b.lastAt ? -1 : 0)
