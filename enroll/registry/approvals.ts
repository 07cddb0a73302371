import { FleetError } from '../../runtime/errors.ts'
import type { Range, Stored } from './engine.ts'
import type { Page, Paging, Registry, Write } from './registry.ts'
import type { Redemption } from './vouchers.ts'

export type Decision = 'pending' | 'approved' | 'denied'

/** A request that waits, or waited, for an operator. One record is one certificate request, octet for octet. */
export type ApprovalRecord = Redemption & {
  /** SHA-256 of the PKCS#10's DER, lower-case hex. */
  id: string
  deviceId: string
  profile: string
  label: string
  keyType: string
  /** Of the key that is asked for, from the start. */
  spkiHash: string
  /** What was proved beside: `token`, `factory`, … */
  proved: string[]
  remoteAddress: string
  /** The address, or the /64 of one in IPv6: whom the bounds are counted for. */
  network: string
  requestedAt: string
  /** Forgotten after that, whatever was decided. */
  expiresAt: string
  decision: Decision
  decidedAt?: string
  decidedBy?: string
  /** Of a denial, in the operator's words. */
  reason?: string
}

/** Something can still come of it. */
export const isOpen = ({ decision, status }: ApprovalRecord): boolean =>
  decision === 'pending' || (decision === 'approved' && status !== 'spent')

export const findApproval = (registry: Registry, id: string): Promise<Stored<ApprovalRecord> | undefined> =>
  registry.find('approval', id)

/** @throws FleetError `approval_unknown` */
export async function getApproval(registry: Registry, id: string): Promise<Stored<ApprovalRecord>> {
  const approval = await findApproval(registry, id)
  if (approval !== undefined) return approval
  throw new FleetError('approval_unknown', `no request ${id.slice(0, 64)} waits or waited for approval`)
}

type Filter = {
  decision?: Decision | undefined
  openOf?: string | undefined
  expiresBefore?: Date | undefined
  /** Asked of each beside. */
  keep?: (approval: ApprovalRecord) => boolean
}

/** In order of id; by `expiresBefore` the first to expire comes first. At most one filter beside `keep`. */
export function listApprovals(
  registry: Registry,
  { decision, openOf, expiresBefore, keep = () => true, ...paging }: Filter & Paging,
): Promise<Page<ApprovalRecord>> {
  const before = expiresBefore?.toISOString()
  const range: Range =
    openOf !== undefined
      ? { index: 'approval.device', value: openOf }
      : before !== undefined
        ? { index: 'approval.expiresAt', before }
        : decision !== undefined
          ? { index: 'approval.decision', value: decision }
          : { kind: 'approval' }
  return registry.list(
    'approval',
    range,
    paging,
    (approval) =>
      (decision === undefined || approval.decision === decision) &&
      (openOf === undefined || (approval.deviceId === openOf && isOpen(approval))) &&
      (before === undefined || approval.expiresAt < before) &&
      keep(approval),
  )
}

/** @param expect the revision it was read at; 0: it must not exist */
export const writeApproval = (doc: ApprovalRecord, expect: number): Write => ({
  kind: 'approval',
  id: doc.id,
  expect,
  doc,
})

export const deleteApproval = ({ doc, rev }: Stored<ApprovalRecord>): Write => ({
  kind: 'approval',
  id: doc.id,
  expect: rev,
  doc: undefined,
})
