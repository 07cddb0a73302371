import {
  type ApprovalView,
  approvalView,
  approveRequest,
  denyRequest,
  listApprovals as listQuery,
  pageOf,
} from '../../contract/admin-api.ts'
import { type ApprovalRecord, getApproval, listApprovals } from '../registry/approvals.ts'
import { findDevice } from '../registry/devices.ts'
import { route } from './route.ts'

export const approvalRoutes = [
  route({
    method: 'GET',
    path: '/v1/approvals',
    role: 'viewer',
    summary: 'Requests that wait, or waited, for approval',
    answer: pageOf(approvalView),
    query: listQuery,
    handle: async ({ query }, { registry, clock }) => {
      const { items, next } = await listApprovals(registry, query)
      const now = clock().toISOString()
      return { items: items.filter(({ doc }) => doc.expiresAt > now).map(({ doc }) => show(doc)), next }
    },
  }),
  route({
    method: 'GET',
    path: '/v1/approvals/:id',
    role: 'viewer',
    summary: 'One of them, with the certificate that its device has',
    answer: approvalView,
    problems: ['approval_unknown'],
    handle: async ({ params }, { registry }) => {
      const { doc } = await getApproval(registry, params.id ?? '')
      const device = (await findDevice(registry, doc.deviceId))?.doc
      if (device === undefined) return show(doc)
      const { currentSerial, status: deviceStatus } = device
      return { ...show(doc), deviceStatus, ...(currentSerial === undefined ? {} : { currentSerial }) }
    },
  }),
  route({
    method: 'POST',
    path: '/v1/approvals/:id/approve',
    role: 'enroller',
    summary: 'Let it be certified',
    answer: approvalView,
    problems: ['approval_unknown', 'conflict', 'device_revoked', 'device_held'],
    body: approveRequest,
    handle: async ({ params, body, asked }, { approvals }) =>
      show(await approvals.approve(params.id ?? '', body.groups, asked)),
  }),
  route({
    method: 'POST',
    path: '/v1/approvals/:id/deny',
    role: 'enroller',
    summary: 'Refuse it',
    answer: approvalView,
    problems: ['approval_unknown', 'conflict'],
    body: denyRequest,
    handle: async ({ params, body, asked }, { approvals }) =>
      show(await approvals.deny(params.id ?? '', body.reason, asked)),
  }),
]

function show({ network: _network, status, decision, spentAt: _spent, ...rest }: ApprovalRecord): ApprovalView {
  return { ...rest, decision: status === 'spent' ? 'issued' : decision }
}
