import {
  type AllowanceView,
  listAllowances as allowancesQuery,
  allowDevices,
  changeDevice,
  createDevice,
  type DeviceView,
  deviceId,
  disallowDevices,
  listDevices as listQuery,
  readmitDevice as readmitBody,
  revokeDevice as revokeBody,
  waitForBrokers,
} from '../../contract/admin-api.ts'
import { changeDevices as changeDevicesBody } from '../../contract/bulk-api.ts'
import { nameRule } from '../../contract/ids.ts'
import { FleetError } from '../../runtime/errors.ts'
import { changeDevices } from '../ca/bulk.ts'
import { holdDevice, releaseDevice } from '../ca/hold.ts'
import { reportStolen, revokeDevice } from '../ca/revocation.ts'
import { allowDevices as allow, disallowDevices as disallow } from '../ra/allow-list.ts'
import { setAttributes } from '../ra/device-attributes.ts'
import { createDevice as create } from '../ra/enrollment-tokens.ts'
import { readmitDevice } from '../ra/readmission.ts'
import { listAllowances } from '../registry/allowances.ts'
import { type DeviceRecord, getDevice, listDevices } from '../registry/devices.ts'
import { confirmed } from './confirmed.ts'
import { route } from './route.ts'

export const deviceRoutes = [
  route({
    method: 'POST',
    path: '/v1/devices/allow',
    role: 'enroller',
    body: allowDevices,
    handle: ({ body, asked }, { registry, ra }) =>
      allow(registry, { ...body, profile: ra.profileOfLabel(body.label) }, asked),
  }),
  route({
    method: 'POST',
    path: '/v1/devices/disallow',
    role: 'enroller',
    body: disallowDevices,
    handle: ({ body, asked }, { registry }) => disallow(registry, body, asked),
  }),
  route({
    method: 'GET',
    path: '/v1/allowances',
    role: 'viewer',
    query: allowancesQuery,
    handle: async ({ query }, { registry }) => {
      const { items, next } = await listAllowances(registry, query)
      return { items: items.map(({ doc }): AllowanceView => doc), next }
    },
  }),
  route({
    method: 'POST',
    path: '/v1/devices',
    role: 'enroller',
    status: 201,
    body: createDevice,
    handle: async ({ body, asked }, { registry, ra }) => {
      ra.requireProfile(body.profile)
      return show(await create(registry, body, asked))
    },
  }),
  route({
    method: 'GET',
    path: '/v1/devices',
    role: 'viewer',
    query: listQuery,
    handle: async ({ query }, { registry }) => {
      const { items, next } = await listDevices(registry, query)
      return { items: items.map(({ doc }) => show(doc)), next }
    },
  }),
  route({
    method: 'GET',
    path: '/v1/devices/:id',
    role: 'viewer',
    handle: async ({ params }, { registry }) => show((await getDevice(registry, requireId(params.id))).doc),
  }),
  route({
    method: 'PATCH',
    path: '/v1/devices/:id',
    role: 'operator',
    body: changeDevice,
    handle: async ({ params, body, asked }, { registry }) =>
      show(await setAttributes(registry, { id: requireId(params.id), changes: body.attributes }, asked)),
  }),
  route({
    method: 'POST',
    path: '/v1/devices/:id/revoke',
    role: 'operator',
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
    body: changeDevicesBody,
    handle: async ({ body: { waitMs, ...order }, asked }, { registry, ra, feed }) => {
      const purged = (profile: string) => ra.purged(profile, order.verb === 'stolen')
      const change = await changeDevices(registry, { ...order, purged, ...asked })
      const brokers = await feed.confirmations(change.feedSeq, waitMs)
      return { ...change, inForce: brokers.every((broker) => broker.confirmed), brokers }
    },
  }),
  route({
    method: 'POST',
    path: '/v1/devices/:id/readmit',
    role: 'operator',
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

const show = (doc: DeviceRecord): DeviceView => doc
