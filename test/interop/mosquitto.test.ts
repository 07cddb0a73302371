import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Gateway, needs, type Outcome } from './gateway.ts'

const telemetry = 'devices/+/telemetry/#'
const succeeded = ({ code, out, err }: Outcome): void => assert.equal(code, 0, out + err)

test(
  'mosquitto clients publish, receive, are refused and cut off',
  needs('mosquitto_pub', 'mosquitto_sub', 'stdbuf', 'openssl', 'curl'),
  async (t) => {
    await using gateway = await Gateway.start()
    await gateway.enroll('cam-1', 'camera')
    await gateway.enroll('cam-2', 'camera')
    await gateway.enroll('app-1', 'service')
    await gateway.enroll('app-2', 'service')

    for (const version of ['mqttv31', 'mqttv311', 'mqttv5']) {
      const speaks = ['-V', version]
      const format = ['-F', 'topic %t, QoS %q, retained %r: %p']

      await t.test(`${version}: a device publishes at every QoS and an application reads it`, async () => {
        await using application = await gateway.subscribe('app-1', telemetry, ...speaks, '-q', '2', ...format)
        for (const qos of ['0', '1', '2']) {
          succeeded(await gateway.publish('cam-1', `devices/cam-1/telemetry/${qos}`, '21.5', ...speaks, '-q', qos))
          await application.says(new RegExp(`topic devices/cam-1/telemetry/${qos}, QoS ${qos}, retained 0: 21\\.5`))
        }
      })

      await t.test(`${version}: a retained message waits for who subscribes`, async () => {
        const topic = 'devices/cam-1/telemetry/kept'
        succeeded(await gateway.publish('cam-1', topic, 'kept', ...speaks, '-r'))
        await using application = await gateway.subscribe('app-1', telemetry, ...speaks, ...format)
        await application.says(/telemetry\/kept, QoS 1, retained 1: kept/)
        succeeded(await gateway.publish('cam-1', topic, '', ...speaks, '-r'))
        await application.says(/telemetry\/kept, QoS 1, retained 0: \n/)
      })

      await t.test(`${version}: the will of a device that is killed is published`, async () => {
        await using application = await gateway.subscribe('app-1', telemetry, ...speaks, ...format)
        const will = ['--will-topic', 'devices/cam-1/telemetry/will', '--will-payload', 'gone', '--will-qos', '1']
        await using camera = await gateway.subscribe('cam-1', 'devices/cam-1/commands/#', ...speaks, ...will)
        await camera.kill()
        await application.says(/telemetry\/will, QoS 1, retained 0: gone/)
      })

      await t.test(`${version}: a session that is resumed has what was published meanwhile`, async () => {
        const subscriber = (...args: string[]) => gateway.subscriber('app-1', telemetry, ...speaks, ...format, ...args)
        await using first = subscriber('-c', '-E')
        succeeded(await first.ended())
        succeeded(await gateway.publish('cam-1', 'devices/cam-1/telemetry/missed', 'missed', ...speaks))
        await using second = subscriber('-c', '-C', '1')
        const outcome = await second.ended()
        succeeded(outcome)
        assert.match(outcome.out, /telemetry\/missed, QoS 1, retained 0: missed/)
        await using clean = subscriber('-E')
        succeeded(await clean.ended())
      })

      await t.test(`${version}: two that share a subscription get a message each`, async () => {
        const subscribe = (id: string) => gateway.subscribe(id, `$share/g/${telemetry}`, ...speaks, '-C', '1')
        await using one = await subscribe('app-1')
        await using other = await subscribe('app-2')
        for (const message of ['1', '2']) {
          succeeded(await gateway.publish('cam-1', 'devices/cam-1/telemetry/shared', message, ...speaks))
        }
        for (const outcome of [await one.ended(), await other.ended()]) succeeded(outcome)
      })
    }

    await t.test('mqttv5: properties arrive, with the subscription’s identifier', async () => {
      const properties = [
        ['content-type', 'text/plain'],
        ['response-topic', 'devices/cam-1/telemetry/answer'],
        ['correlation-data', 'c1'],
        ['payload-format-indicator', '1'],
        ['message-expiry-interval', '100'],
        ['user-property', 'site', 'berlin'],
      ].flatMap((property) => ['-D', 'publish', ...property])
      const identifier = ['-D', 'subscribe', 'subscription-identifier', '7']
      const format = ['-F', 'type %C, answer to %R, about %D, format %F, for %E s, user %P, subscription %S: %p']
      await using application = await gateway.subscribe('app-1', telemetry, '-V', 'mqttv5', ...identifier, ...format)
      const topic = 'devices/cam-1/telemetry/temp'
      succeeded(await gateway.publish('cam-1', topic, '21.5', '-V', 'mqttv5', ...properties))
      await application.says(
        /type text\/plain, answer to devices\/cam-1\/telemetry\/answer, about c1, format 1, for (99|100) s, user site:berlin, subscription 7: 21\.5/,
      )
    })

    await t.test(
      'a message on the topic of another device reaches nobody, and a version 5 client is told',
      async () => {
        await using application = await gateway.subscribe('app-1', telemetry, '-v', '-C', '1')
        await gateway.publish('cam-1', 'devices/cam-2/telemetry/temp', 'forged')
        const told = await gateway.publish('cam-1', 'devices/cam-2/telemetry/temp', 'forged', '-V', 'mqttv5', '-d')
        assert.match(told.out + told.err, /Not authorized|RC:135/i)
        succeeded(await gateway.publish('cam-2', 'devices/cam-2/telemetry/temp', 'own'))
        const { out } = await application.ended()
        assert.match(out, /^devices\/cam-2\/telemetry\/temp own$/m)
        assert.doesNotMatch(out, /forged/)
      },
    )

    await t.test('a subscription to the topics of all is refused in SUBACK', async () => {
      await using camera = await gateway.subscribe('cam-1', '#', '-W', '2')
      const { out } = await camera.ended()
      assert.match(out, /Subscribed \(mid: 1\): 128|All subscription requests were denied/)
    })

    await t.test('a client id of another device is refused', async () => {
      const { code, err } = await gateway.publishAs('cam-1', 'cam-2', 'devices/cam-1/x', 'x')
      assert.notEqual(code, 0)
      assert.match(err, /not authorised|identifier rejected/i)
    })

    await t.test('a client without a certificate, and one with its own, do not get as far as CONNACK', async () => {
      await gateway.makeSelfSigned('own', 'cam-1')
      for (const name of [undefined, 'own']) {
        const { code, out, err } = await gateway.publishAs(name, 'cam-1', 'devices/cam-1/x', 'x', '-d')
        assert.notEqual(code, 0)
        assert.doesNotMatch(out + err, /CONNACK/)
      }
    })

    await t.test('a revoked device is cut off when the command returns, and refused when it comes back', async () => {
      await using camera = await gateway.subscribe('cam-1', 'devices/cam-1/commands/#')
      const reason = ['--reason', 'keyCompromise']
      const revoked = await gateway.fleetgate('device', 'revoke', 'cam-1', ...reason, '--wait', '-o', 'json')
      assert.equal(revoked.code, 0, revoked.err)
      assert.equal(JSON.parse(revoked.out).inForce, true)
      assert.match((await camera.ended()).out, /The connection was lost/)
      const again = await gateway.publish('cam-1', 'devices/cam-1/telemetry/temp', 'x')
      assert.equal(again.code, 5)
      assert.match(again.err, /not authorised/)
      succeeded(await gateway.publish('cam-2', 'devices/cam-2/telemetry/temp', 'others go on'))
      assert.match((await gateway.reenroll('cam-1')).out, /^HTTP\/1\.1 403 [\s\S]*(certificate|device)_revoked: /)
    })
  },
)
