import { pageOf } from '../../contract/admin-api.ts'
import {
  allowLateRenewal,
  type LateRenewalView,
  lateRenewalView,
  listLateRenewals as listQuery,
} from '../../contract/late-renewal-api.ts'
import { allowLateRenewal as allow, withdrawLateRenewal } from '../ra/late-renewal.ts'
import { type LateRenewalRecord, listLateRenewals } from '../registry/late-renewals.ts'
import { requireId } from './devices.ts'
import { readPage } from './paging.ts'
import { route } from './route.ts'

export const lateRenewalRoutes = [
  route({
    method: 'GET',
    path: '/v1/late-renewals',
    role: 'viewer',
    summary: 'Who may renew with a certificate that has expired',
    answer: pageOf(lateRenewalView),
    query: listQuery,
    handle: ({ query }, { registry }) =>
      readPage('late-renewals', query, (paging) => listLateRenewals(registry, { ...query, ...paging }), show),
  }),
  route({
    method: 'PUT',
    path: '/v1/late-renewals/:id',
    role: 'enroller',
    summary: 'Let a device do so once',
    answer: lateRenewalView,
    problems: [
      'device_unknown',
      'device_revoked',
      'device_held',
      'certificate_unknown',
      'certificate_expired',
      'conflict',
    ],
    body: allowLateRenewal,
    handle: async ({ params, body, asked }, { registry }) =>
      show(await allow(registry, { deviceId: requireId(params.id), ttlMs: body.ttlMs }, asked)),
  }),
  route({
    method: 'DELETE',
    path: '/v1/late-renewals/:id',
    role: 'enroller',
    summary: 'Take that back',
    answer: lateRenewalView,
    problems: ['late_renewal_unknown', 'conflict'],
    handle: async ({ params, asked }, { registry }) =>
      show(await withdrawLateRenewal(registry, requireId(params.id), asked)),
  }),
]

const show = (doc: LateRenewalRecord): LateRenewalView => lateRenewalView.parse(doc)
