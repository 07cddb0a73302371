import type { DeviceId, RevocationReason } from '../../contract/ids.ts'
import type { ProblemCode } from '../../contract/problems.ts'
import { isFleetError } from '../../runtime/errors.ts'
import type { Asked } from '../registry/asked.ts'
import { type Registry, untilNoConflict } from '../registry/registry.ts'
import { type Bar, barring, barringAttempts } from './barring.ts'
import { planHold } from './hold.ts'
import { carryOut, type Plan } from './plan.ts'
import { planRevocation, planTheft, type Theft, type TheftReport } from './revocation.ts'

export type BulkVerb = 'revoke' | 'disable' | 'enable' | 'stolen'
export type BulkOutcome = {
  deviceId: string
  outcome: 'done' | 'already' | 'refused'
  code?: ProblemCode
  detail?: string
} & Hardware
type Hardware = Pick<Theft, 'sameHardware' | 'sameSerialNumber'>
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
  const barred = order.verb === 'enable' ? [] : order.ids
  return barring(barred, order.verb === 'disable' ? 'device_held' : 'device_revoked', (bar) =>
    untilNoConflict(() => change(registry, order, bar), barringAttempts),
  )
}

/** What that would do to each device; nothing is changed. */
export const foresee = async (registry: Registry, order: BulkOrder): Promise<BulkOutcome[]> =>
  (await planAll(registry, order)).map(({ outcome }) => outcome)

async function change(registry: Registry, order: BulkOrder, bar: Bar): Promise<BulkChange> {
  let first: Planned[] | undefined
  const plan = async () => {
    const planned = await planAll(registry, order)
    first ??= planned
    for (const { outcome } of planned) bar(outcome.sameHardware ?? [], 'device_held')
    return planned.flatMap(({ plan }) => plan ?? [])
  }
  const requestId = `${order.requestId}-bulk`
  const { feedSeq } = await carryOut(registry, plan, { ...order, requestId })
  const done = await registry.find('request', requestId)
  return {
    devices: first!.map(({ outcome }) => outcome),
    feedSeq,
    at: done?.doc.at ?? order.now.toISOString(),
  }
}

type Planned = { outcome: BulkOutcome; plan?: Plan<unknown> }

const planAll = (registry: Registry, order: BulkOrder): Promise<Planned[]> =>
  Promise.all([...new Set(order.ids)].map((id) => planOne(registry, id, order)))

async function planOne(registry: Registry, id: DeviceId, order: BulkOrder): Promise<Planned> {
  try {
    const { hardware, ...plan } = await planOf(registry, { ...order, id })
    const outcome = plan.change === undefined ? 'already' : 'done'
    return { outcome: { deviceId: id, outcome, ...hardware }, plan }
  } catch (error) {
    const isOwn = isFleetError(error, 'device_unknown') || (isFleetError(error, 'conflict') && error.context.final)
    if (!isFleetError(error) || !isOwn) throw error
    return { outcome: { deviceId: id, outcome: 'refused', code: error.code, detail: error.message } }
  }
}

async function planOf(
  registry: Registry,
  order: BulkOrder & { id: DeviceId },
): Promise<Plan<unknown> & { hardware?: Hardware }> {
  switch (order.verb) {
    case 'revoke':
      return planRevocation(registry, order)
    case 'stolen': {
      const plan = await planTheft(registry, order)
      const { sameHardware, sameSerialNumber } = plan.answer
      return {
        ...plan,
        hardware: { ...(sameHardware && { sameHardware }), ...(sameSerialNumber && { sameSerialNumber }) },
      }
    }
    case 'disable':
      return planHold(registry, 'held', order)
    case 'enable':
      return planHold(registry, 'active', order)
  }
}
