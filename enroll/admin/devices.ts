import {
  type AllowanceView,
  listAllowances as allowancesQuery,
  allowanceView,
  allowDevices,
  allowReceipt,
  createDevice,
  type DeviceView,
  deviceId,
  deviceView,
  disallowDevices,
  disallowReceipt,
  holdReceipt,
  listDevices as listQuery,
  pageOf,
  readmitDevice as readmitBody,
  revocationReceipt,
  revokeDevice as revokeBody,
  theftReceipt,
  waitForBrokers,
} from '../../contract/admin-api.ts'
import {
  bulkReceipt,
  changeDevices as changeDevicesBody,
  foreseeChange,
  foreseenChange,
} from '../../contract/bulk-api.ts'
import { changeDevice as changeDeviceBody } from '../../contract/device-change-api.ts'
import { nameRule } from '../../contract/ids.ts'
import { FleetError } from '../../runtime/errors.ts'
import { changeDevices, foresee } from '../ca/bulk.ts'
import { holdDevice, releaseDevice } from '../ca/hold.ts'
import { reportStolen, revokeDevice } from '../ca/revocation.ts'
import { allowDevices as allow, disallowDevices as disallow } from '../ra/allow-list.ts'
import { changeDevice } from '../ra/device-changes.ts'
import { createDevice as create } from '../ra/enrollment-tokens.ts'
import { readmitDevice } from '../ra/readmission.ts'
import { listAllowances } from '../registry/allowances.ts'
import { type DeviceRecord, getDevice, listDevices } from '../registry/devices.ts'
import { confirmed } from './confirmed.ts'
import { readPage } from './paging.ts'
import { route } from './route.ts'

export const deviceRoutes = [
  route({
    method: 'POST',
    path: '/v1/devices/allow',
    role: 'enroller',
    summary: 'Put hardware on the allow-list of a label',
    answer: allowReceipt,
    problems: ['device_revoked', 'device_held', 'hardware_stolen', 'conflict'],
    body: allowDevices,
    handle: ({ body, asked }, { registry, ra }) =>
      allow(registry, { ...body, profile: ra.profileOfLabel(body.label) }, asked),
  }),
  route({
    method: 'POST',
    path: '/v1/devices/disallow',
    role: 'enroller',
    summary: 'Take hardware off it',
    answer: disallowReceipt,
    problems: ['conflict'],
    body: disallowDevices,
    handle: ({ body, asked }, { registry }) => disallow(registry, body, asked),
  }),
  route({
    method: 'GET',
    path: '/v1/allowances',
    role: 'viewer',
    summary: 'The allow-lists',
    answer: pageOf(allowanceView),
    query: allowancesQuery,
    handle: ({ query }, { registry }) =>
      readPage(
        'allowances',
        query,
        (paging) => listAllowances(registry, { ...query, ...paging }),
        (doc): AllowanceView => doc,
      ),
  }),
  route({
    method: 'POST',
    path: '/v1/devices',
    role: 'enroller',
    summary: 'Register a device',
    answer: deviceView,
    problems: ['device_exists', 'conflict', 'profile_unknown'],
    status: 201,
    body: createDevice,
    handle: async ({ body, asked, tag }, { registry, ra }) => {
      ra.requireProfile(body.profile)
      await create(registry, body, asked)
      // As it is now: of a request that came twice, it may have been changed since the first.
      const { doc, rev } = await getDevice(registry, body.id)
      tag(rev)
      return show(doc)
    },
  }),
  route({
    method: 'GET',
    path: '/v1/devices',
    role: 'viewer',
    summary: 'Devices',
    answer: pageOf(deviceView),
    query: listQuery,
    handle: ({ query }, { registry }) =>
      readPage('devices', query, (paging) => listDevices(registry, { ...query, ...paging }), show),
  }),
  route({
    method: 'GET',
    path: '/v1/devices/:id',
    role: 'viewer',
    summary: 'One device',
    answer: deviceView,
    problems: ['device_unknown'],
    handle: async ({ params, tag }, { registry }) => {
      const { doc, rev } = await getDevice(registry, requireId(params.id))
      tag(rev)
      return show(doc)
    },
  }),
  route({
    method: 'PATCH',
    path: '/v1/devices/:id',
    role: 'operator',
    summary: 'Change its profile, groups and attributes',
    answer: deviceView,
    conditional: true,
    problems: [
      'precondition_failed',
      'device_unknown',
      'device_revoked',
      'profile_unknown',
      'label_mismatch',
      'conflict',
    ],
    body: changeDeviceBody,
    handle: async ({ params, body: { dryRun, ...changes }, asked, tag }, { registry, ra }) => {
      const order = { id: requireId(params.id), changes, isForeseen: dryRun, labels: ra }
      const { doc, rev } = await changeDevice(registry, order, asked)
      tag(rev)
      return show(doc)
    },
  }),
  route({
    method: 'POST',
    path: '/v1/devices/:id/revoke',
    role: 'operator',
    summary: 'Revoke it with every certificate',
    answer: revocationReceipt,
    problems: ['device_unknown', 'conflict'],
    body: revokeBody,
    handle: async ({ params, body, asked }, context) => {
      const id = requireId(params.id)
      const purged = (profile: string) => context.ra.purged(profile, false)
      const revocation = await revokeDevice(context.registry, { id, reason: body.reason, purged, ...asked })
      return confirmed(context, { deviceId: id, ...revocation }, { waitMs: body.waitMs, asked })
    },
  }),
  route({
    method: 'POST',
    path: '/v1/devices/:id/disable',
    role: 'operator',
    summary: 'Put it on hold',
    answer: holdReceipt,
    problems: ['device_unknown', 'conflict'],
    body: waitForBrokers,
    handle: async ({ params, body, asked }, context) => {
      const id = requireId(params.id)
      const hold = await holdDevice(context.registry, { id, ...asked })
      return confirmed(context, { deviceId: id, ...hold }, { waitMs: body.waitMs, asked })
    },
  }),
  route({
    method: 'POST',
    path: '/v1/devices/:id/enable',
    role: 'operator',
    summary: 'Take the hold back',
    answer: holdReceipt,
    problems: ['device_unknown', 'conflict'],
    body: waitForBrokers,
    handle: async ({ params, body, asked }, context) => {
      const id = requireId(params.id)
      const release = await releaseDevice(context.registry, { id, ...asked })
      return confirmed(context, { deviceId: id, ...release }, { waitMs: body.waitMs, asked })
    },
  }),
  route({
    method: 'POST',
    path: '/v1/devices/:id/stolen',
    role: 'operator',
    summary: 'Report it stolen',
    answer: theftReceipt,
    problems: ['device_unknown', 'conflict'],
    body: waitForBrokers,
    handle: async ({ params, body, asked }, context) => {
      const id = requireId(params.id)
      const purged = (profile: string) => context.ra.purged(profile, true)
      const theft = await reportStolen(context.registry, { id, purged, ...asked })
      return confirmed(context, { deviceId: id, ...theft }, { waitMs: body.waitMs, asked })
    },
  }),
  route({
    method: 'POST',
    path: '/v1/devices/bulk',
    role: 'operator',
    summary: 'One verb for many devices',
    answer: bulkReceipt,
    problems: ['conflict'],
    body: changeDevicesBody,
    handle: async ({ body: { waitMs, ...order }, asked }, { registry, ra, feed }) => {
      const purged = (profile: string) => ra.purged(profile, order.verb === 'stolen')
      const change = await changeDevices(registry, { ...order, purged, ...asked })
      const onDiskAt = registry.onDiskAt(change.feedSeq, asked.now)
      const brokers = await feed.confirmations(change.feedSeq, waitMs, onDiskAt)
      return { ...change, inForce: brokers.every((broker) => broker.confirmed), brokers }
    },
  }),
  route({
    method: 'GET',
    path: '/v1/foreseen',
    role: 'viewer',
    summary: 'What one verb would do to many devices',
    answer: foreseenChange,
    query: foreseeChange,
    handle: async ({ query: { verb, deviceId: ids }, asked }, { registry }) => ({
      devices: await foresee(registry, { verb, ids, reason: 'unspecified', purged: () => [], ...asked }),
    }),
  }),
  route({
    method: 'POST',
    path: '/v1/devices/:id/readmit',
    role: 'operator',
    summary: 'Take its revocation back; it enrolls anew',
    answer: deviceView,
    problems: ['device_unknown', 'conflict'],
    body: readmitBody,
    handle: async ({ params, body, asked }, { registry }) => {
      const device = { id: requireId(params.id), isRecovered: body.stolenRecovered }
      return show(await readmitDevice(registry, device, asked))
    },
  }),
]

export function requireId(text: string | undefined) {
  const result = deviceId.safeParse(text)
  if (result.success) return result.data
  throw new FleetError('request_malformed', `a device id is ${nameRule}`)
}

const show = ({ unused: _, issued: _issued, factoryKeys: _keys, ...doc }: DeviceRecord): DeviceView => doc
