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
import { readPage } from './paging.ts'
import { route } from './route.ts'

export const approvalRoutes = [
  route({
    method: 'GET',
    path: '/v1/approvals',
    role: 'viewer',
    summary: 'Requests that wait, or waited, for approval',
    answer: pageOf(approvalView),
    query: listQuery,
    handle: ({ query, asked: { now } }, { registry }) => {
      const { deviceId, profile, label } = query
      const keep = (doc: ApprovalRecord): boolean =>
        doc.expiresAt > now.toISOString() &&
        (deviceId === undefined || doc.deviceId === deviceId) &&
        (profile === undefined || doc.profile === profile) &&
        (label === undefined || doc.label === label)
      return readPage('approvals', query, (paging) => listApprovals(registry, { ...query, ...paging, keep }), show)
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
