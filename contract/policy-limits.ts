/** How much a client may do, whatever the topic. */
import { z } from 'zod'

const rateOf = (rate: z.ZodNumber, maxBurst: number) => {
  const burst = z.int().min(1).max(maxBurst)
  return z
    .union([rate, z.strictObject({ rate, burst: burst.optional() })], 'a rate is wanted, or { rate, burst }')
    .transform((given) => {
      const { rate: perSecond, burst: atOnce } = typeof given === 'number' ? { rate: given } : given
      // What a second brings, unless more or less is wanted at once.
      return { rate: perSecond, burst: atOnce ?? Math.max(1, Math.ceil(perSecond)) }
    })
}
export type Rate = { readonly rate: number; readonly burst: number }

const seconds = z.int().min(1).max(65_535)

export const policyLimits = z.strictObject({
  messagesPerSecond: rateOf(z.number().min(0.001).max(1_000_000), 1_000_000)
    .optional()
    .describe('Messages published, all connections of the device together'),
  bytesPerSecond: rateOf(z.number().min(1).max(1e9), 1e9)
    .optional()
    .describe('Payload bytes published, all connections of the device together'),
  payloadBytes: z.int().min(0).max(268_435_455).optional().describe('Largest payload of one message'),
  inFlight: z.int().min(1).max(65_535).optional().describe('Messages of QoS 1 and 2 under way, in each direction'),
  subscriptions: z.int().min(0).max(65_535).optional().describe('Topic filters of one session'),
  retainedMessages: z.int().min(0).max(1e9).optional().describe('Messages the device may have retained'),
  retainedBytes: z.int().min(0).max(1e12).optional().describe('Bytes of them: topic, payload and properties'),
  connections: z.int().min(1).max(65_535).optional().describe('Connections of the device at a time'),
  keepAliveSeconds: z
    .strictObject({ min: seconds.optional(), max: seconds.optional() })
    .refine(({ min = 1, max = 65_535 }) => min <= max, 'min is larger than max')
    .optional()
    .describe('What a client may ask for; version 5 is told another, older clients are held to the largest'),
})
export type PolicyLimits = z.output<typeof policyLimits>

const amounts = [
  'payloadBytes',
  'inFlight',
  'subscriptions',
  'retainedMessages',
  'retainedBytes',
  'connections',
] as const

/** Of each limit the smallest; of a smallest keep-alive the largest, unless a largest is below it. */
export function narrowest(all: readonly PolicyLimits[]): PolicyLimits {
  const limits: PolicyLimits = {}
  for (const name of ['messagesPerSecond', 'bytesPerSecond'] as const) {
    const given = all.flatMap(({ [name]: rate }) => (rate === undefined ? [] : [rate]))
    if (given.length === 0) continue
    limits[name] = {
      rate: Math.min(...given.map(({ rate }) => rate)),
      burst: Math.min(...given.map(({ burst }) => burst)),
    }
  }
  for (const name of amounts) {
    const given = all.flatMap(({ [name]: amount }) => (amount === undefined ? [] : [amount]))
    if (given.length > 0) limits[name] = Math.min(...given)
  }
  const keepAlives = all.flatMap(({ keepAliveSeconds }) => (keepAliveSeconds === undefined ? [] : [keepAliveSeconds]))
  if (keepAlives.length > 0) {
    const max = Math.min(...keepAlives.map(({ max: one = Number.POSITIVE_INFINITY }) => one))
    const min = Math.min(max, Math.max(...keepAlives.map(({ min: one = 1 }) => one)))
    limits.keepAliveSeconds = { min, ...(max === Number.POSITIVE_INFINITY ? {} : { max }) }
  }
  return limits
}
