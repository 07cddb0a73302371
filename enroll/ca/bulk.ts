import type { DeviceId, RevocationReason } from '../../contract/ids.ts'
import type { ProblemCode } from '../../contract/problems.ts'
import { isFleetError } from '../../runtime/errors.ts'
import type { Asked } from '../registry/asked.ts'
import { type Registry, untilNoConflict } from '../registry/registry.ts'
import { barring, barringAttempts } from './barring.ts'
import { planHold } from './hold.ts'
import { carryOut, type Plan } from './plan.ts'
import { planRevocation, planTheft, type TheftReport } from './revocation.ts'

export type BulkVerb = 'revoke' | 'disable' | 'enable' | 'stolen'
export type BulkOutcome = {
  deviceId: string
  outcome: 'done' | 'already' | 'refused'
  code?: ProblemCode
  detail?: string
}
export type BulkOrder = Asked &
  Pick<TheftReport, 'purged'> & { ids: readonly DeviceId[]; verb: BulkVerb; reason: RevocationReason }

type BulkChange = {
  devices: BulkOutcome[]
  feedSeq: number
  /** When it was done, which may have been by this request when it came before. */
  at: string
}

/**
 * Does to each device what the verb does to one, in one durable batch: after a crash it is done to all of them or to none.
 * Those that cannot be changed are named and hold nobody up.
 */
export function changeDevices(registry: Registry, order: BulkOrder): Promise<BulkChange> {
  const ids = [...new Set(order.ids)]
  const attempt = () => untilNoConflict(() => change(registry, ids, order), barringAttempts)
  if (order.verb === 'enable') return attempt()
  return barring(ids, order.verb === 'disable' ? 'device_held' : 'device_revoked', attempt)
}

async function change(registry: Registry, ids: readonly DeviceId[], order: BulkOrder): Promise<BulkChange> {
  const planned = await Promise.all(ids.map((id) => planOne(registry, id, order)))
  const plans = planned.flatMap(({ plan }) => plan ?? [])
  const requestId = `${order.requestId}-bulk`
  const feedSeq = await carryOut(registry, plans, { ...order, requestId })
  const done = await registry.find('request', requestId)
  return {
    devices: planned.map(({ outcome }) => outcome),
    feedSeq,
    at: done?.doc.at ?? order.now.toISOString(),
  }
}

async function planOne(
  registry: Registry,
  id: DeviceId,
  order: BulkOrder,
): Promise<{ outcome: BulkOutcome; plan?: Plan<unknown> }> {
  try {
    const plan = await planOf(registry, { ...order, id })
    return { outcome: { deviceId: id, outcome: plan.change === undefined ? 'already' : 'done' }, plan }
  } catch (error) {
    const isOwn = isFleetError(error, 'device_unknown') || (isFleetError(error, 'conflict') && error.context.final)
    if (!isFleetError(error) || !isOwn) throw error
    return { outcome: { deviceId: id, outcome: 'refused', code: error.code, detail: error.message } }
  }
}

function planOf(registry: Registry, order: BulkOrder & { id: DeviceId }): Promise<Plan<unknown>> {
  switch (order.verb) {
    case 'revoke':
      return planRevocation(registry, order)
    case 'stolen':
      return planTheft(registry, order)
    case 'disable':
      return planHold(registry, 'held', order)
    case 'enable':
      return planHold(registry, 'active', order)
  }
}
