import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, before, test } from 'node:test'
import { enrolledDevice, Listener } from '../../device-sim/fleet.ts'
import { certificateOf, enrollIdentity, type Identity } from '../../device-sim/identity.ts'
import { renewalTime, runDevice } from '../../device-sim/unattended.ts'
import { createLog } from '../../runtime/log.ts'
import { TestPki } from '../harness/certificates.ts'
import { LiveGateway } from '../harness/live-gateway.ts'

const day = 86_400_000
const log = createLog('device-sim', 'silent')

let live: LiveGateway
before(async () => {
  live = await LiveGateway.start()
})
after(() => live[Symbol.asyncDispose]())

test('renewal is due two thirds into the life of a certificate, spread over the next twentieth', async () => {
  const pki = await TestPki.create()
  const notBefore = new Date('2026-01-01T00:00:00Z')
  const { pem } = await pki.device('cam-1', { notBefore, notAfter: new Date(notBefore.getTime() + 30 * day) })
  assert.equal(renewalTime(pem, 0), notBefore.getTime() + 20 * day)
  assert.equal(renewalTime(pem, 1), notBefore.getTime() + 21.5 * day)
})

test('it reports, and when its certificate is two thirds old it renews, stores and goes on with the new one', async () => {
  const { est, mqtts, operator } = live.server
  const audience = new Listener(await enrolledDevice(live.server, 'dashboard', 'service'))
  await audience.device.subscribe('devices/+/telemetry/#')
  const identity = await enrollIdentity(est, 'cam-1', await operator.createToken('cam-1', 'camera'))
  let ahead = 0
  const stored = Promise.withResolvers<Identity>()
  const options = {
    ...{ id: 'cam-1', mqtts, est, identity, intervalMs: 10, log },
    clock: () => new Date(Date.now() + ahead),
    random: () => 0,
    store: (renewed: Identity) => {
      ahead = 0
      stored.resolve(renewed)
    },
  }
  const young = await runDevice(options)
  await audience.hears((id) => id === 'cam-1')
  await young[Symbol.asyncDispose]()

  ahead = 21 * day
  await using renewing = await runDevice(options)
  assert.equal(renewing.endpoints.mqtts, mqtts)
  const before = certificateOf(identity.certificatePem)
  const after = certificateOf((await stored.promise).certificatePem)
  assert.notEqual(after.serial, before.serial)
  assert.notEqual(after.spkiHash, before.spkiHash)
  assert.deepEqual(after.subject, before.subject)
  await audience.hears((id) => id === 'cam-1')
  await audience.device.disconnect()
})

test('a device that the broker will not have says so and does not try for ever', async () => {
  const { est, mqtts, operator } = live.server
  const identity = await enrollIdentity(est, 'cam-2', await operator.createToken('cam-2', 'camera'))
  await operator.revoke('cam-2')
  const options = { id: 'cam-2', mqtts, est, identity, intervalMs: 10, store: () => undefined, log }
  await assert.rejects(runDevice(options), { name: 'ConnectRefused', returnCode: 5 })
})

test('a command is answered on the telemetry of the device', async () => {
  const audience = new Listener(await enrolledDevice(live.server, 'console', 'service'))
  await audience.device.subscribe('devices/+/telemetry/answers')
  const device = await enrolledDevice(live.server, 'cam-3', 'camera', {
    onCommand: (name, payload) => `${name}=${payload}`,
  })
  const answer = audience.hears((id) => id === 'cam-3')
  await audience.device.publish('devices/cam-3/commands/reboot/now', 'please')
  assert.equal(await answer, 'reboot/now=please')
  const closed = once(device, 'closed')
  await Promise.all([device.disconnect(), audience.device.disconnect()])
  await closed
})

test('an operator sees who is connected and ends a session; the device may come back at once', async () => {
  const device = await enrolledDevice(live.server, 'cam-4', 'camera')
  const { items, unheard } = await live.admin.listSessions({ deviceIds: ['cam-4'] })
  assert.deepEqual([items.map(({ clientId, broker }) => [clientId, broker]), unheard], [[['cam-4', 'broker-1']], []])
  const back = once(device, 'connected')
  const { kicked } = await live.admin.kickSession({ clientId: 'cam-4' })
  assert.equal(kicked[0]?.connectedAt, items[0]?.connectedAt)
  await back
  await assert.rejects(live.admin.kickSession({ clientId: 'cam-4:other' }), { code: 'not_found' })
  await device.disconnect()
})
