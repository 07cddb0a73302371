/** A renewal from end to end: two certificates, then one. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { connect, type MqttClient } from 'mqtt'
import { createBrokerService } from '../../broker/service.ts'
import { createKeyAndCsr } from '../../pki/x509.ts'
import { TestLog } from '../harness/broker.ts'
import { certificateOf, EnrollHarness, testConfiguration } from '../harness/fleet.ts'

test('a session on the old certificate goes on for the overlap after the first session on the new one, and ends then', async () => {
  const overlapMs = 1_500
  await using fleet = await EnrollHarness.start({ config: testConfiguration({ enroll: { overlapMs } }) })
  const config = testConfiguration({ broker: { feed: fleet.endpoints.feed } })
  await using broker = await createBrokerService({
    config,
    dataDir: join(fleet.dataDir, 'broker'),
    credentialDir: join(fleet.dataDir, 'services', 'broker'),
    log: new TestLog().log,
  })
  await broker.feed.untilLive()
  const dial = async (clientId: string, key: string, cert: string): Promise<MqttClient> => {
    const client = connect(broker.endpoints.mqtts, { clientId, key, cert, ca: fleet.root, reconnectPeriod: 0 })
    await new Promise((resolve, reject) => client.once('connect', resolve).once('error', reject))
    return client
  }
  const device = await fleet.enrolledDevice('cam-1')
  const old = await dial('cam-1:a', device.key, device.certificate)
  const { privateKeyPem } = await createKeyAndCsr({ commonName: 'unused' })
  const renewed = certificateOf(await fleet.reenroll(device, await fleet.renewalCsr(device, privateKeyPem)))
  const closed = new Promise<number>((resolve) => old.once('close', () => resolve(performance.now())))
  const started = performance.now()
  const next = await dial('cam-1:b', privateKeyPem, renewed.pem)
  const again = await dial('cam-1:c', device.key, device.certificate)
  assert.ok((await closed) - started >= overlapMs)
  assert.deepEqual([old.connected, again.connected, next.connected], [false, false, true])
  const { body } = await fleet.admin('GET', '/certificates?deviceId=cam-1')
  const states = body.items.map(({ serial, status, revocationReason }: Record<string, string>) =>
    [serial === renewed.serial ? 'new' : 'old', status, revocationReason].join(' '),
  )
  assert.deepEqual(states.sort(), ['new issued ', 'old revoked superseded'])
  await assert.rejects(dial('cam-1', device.key, device.certificate))
  next.end(true)
})
