import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Gateway, needs } from './gateway.ts'

test(
  'mosquitto clients publish, receive, are refused and cut off',
  needs('mosquitto_pub', 'mosquitto_sub', 'stdbuf', 'openssl', 'curl'),
  async (t) => {
    await using gateway = await Gateway.start()
    const { mqtt } = gateway
    const as = (id: string): string[] => ['--cert', `${id}.crt`, '--key', `${id}.key`, '-i', id]
    await gateway.enroll('cam-1', 'camera')
    await gateway.enroll('cam-2', 'camera')
    await gateway.enroll('app-1', 'service')

    await t.test('a device publishes with QoS 1 and an application reads it', async () => {
      await using application = gateway.start(
        'mosquitto_sub',
        ...mqtt,
        ...as('app-1'),
        '-d',
        '-t',
        'devices/+/telemetry/#',
        '-q',
        '1',
        '-v',
        '-C',
        '1',
      )
      await application.says(/Subscribed \(mid: 1\): 1/)
      await gateway.mustRun(
        'mosquitto_pub',
        ...mqtt,
        ...as('cam-1'),
        '-t',
        'devices/cam-1/telemetry/temp',
        '-m',
        '21.5',
        '-q',
        '1',
      )
      const { code, out } = await application.ended()
      assert.equal(code, 0)
      assert.match(out, /^devices\/cam-1\/telemetry\/temp 21\.5$/m)
    })

    await t.test('a message on the topic of another device reaches nobody', async () => {
      await using application = gateway.start(
        'mosquitto_sub',
        ...mqtt,
        ...as('app-1'),
        '-d',
        '-t',
        'devices/+/telemetry/#',
        '-q',
        '1',
        '-v',
        '-C',
        '1',
      )
      await application.says(/Subscribed \(mid: 1\): 1/)
      await gateway.run(
        'mosquitto_pub',
        ...mqtt,
        ...as('cam-1'),
        '-t',
        'devices/cam-2/telemetry/temp',
        '-m',
        'forged',
        '-q',
        '1',
      )
      await gateway.mustRun(
        'mosquitto_pub',
        ...mqtt,
        ...as('cam-2'),
        '-t',
        'devices/cam-2/telemetry/temp',
        '-m',
        'own',
        '-q',
        '1',
      )
      const { out } = await application.ended()
      assert.match(out, /^devices\/cam-2\/telemetry\/temp own$/m)
      assert.doesNotMatch(out, /forged/)
    })

    await t.test('a subscription to the topics of all is refused in SUBACK', async () => {
      const { out, err } = await gateway.run('mosquitto_sub', ...mqtt, ...as('cam-1'), '-d', '-t', '#', '-W', '2')
      assert.match(out + err, /Subscribed \(mid: 1\): 128|All subscription requests were denied/)
    })

    await t.test('a client id of another device is refused', async () => {
      const { code, err } = await gateway.run(
        'mosquitto_pub',
        ...mqtt,
        '--cert',
        'cam-1.crt',
        '--key',
        'cam-1.key',
        '-i',
        'cam-2',
        '-t',
        'devices/cam-1/x',
        '-m',
        'x',
        '-q',
        '1',
      )
      assert.notEqual(code, 0)
      assert.match(err, /not authorised|identifier rejected/i)
    })

    await t.test('a client without a certificate, and one with its own, do not get as far as CONNACK', async () => {
      await gateway.mustRun(
        'openssl',
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:P-256',
        '-nodes',
        '-subj',
        '/CN=cam-1',
        '-keyout',
        'own.key',
        '-out',
        'own.crt',
      )
      for (const credential of [[], ['--cert', 'own.crt', '--key', 'own.key']]) {
        const { code, out, err } = await gateway.run(
          'mosquitto_pub',
          ...mqtt,
          ...credential,
          '-d',
          '-i',
          'cam-1',
          '-t',
          'devices/cam-1/x',
          '-m',
          'x',
          '-q',
          '1',
        )
        assert.notEqual(code, 0)
        assert.doesNotMatch(out + err, /CONNACK/)
      }
    })

    await t.test('a revoked device is cut off when the command returns, and refused when it comes back', async () => {
      await using camera = gateway.start(
        'mosquitto_sub',
        ...mqtt,
        ...as('cam-1'),
        '-d',
        '-t',
        'devices/cam-1/commands/#',
        '-q',
        '1',
      )
      await camera.says(/Subscribed \(mid: 1\): 1/)
      const revoked = await gateway.fleetgate(
        'device',
        'revoke',
        'cam-1',
        '--reason',
        'keyCompromise',
        '--wait',
        '-o',
        'json',
      )
      assert.equal(revoked.code, 0, revoked.err)
      assert.equal(JSON.parse(revoked.out).inForce, true)
      assert.match((await camera.ended()).out, /The connection was lost/)
      const again = await gateway.run(
        'mosquitto_pub',
        ...mqtt,
        ...as('cam-1'),
        '-t',
        'devices/cam-1/telemetry/temp',
        '-m',
        'x',
        '-q',
        '1',
      )
      assert.equal(again.code, 5)
      assert.match(again.err, /not authorised/)
      await gateway.mustRun(
        'mosquitto_pub',
        ...mqtt,
        ...as('cam-2'),
        '-t',
        'devices/cam-2/telemetry/temp',
        '-m',
        'others go on',
        '-q',
        '1',
      )
      const renewal = await gateway.curl(
        '--cert',
        'cam-1.crt',
        '--key',
        'cam-1.key',
        '-H',
        'Content-Type: application/pkcs10',
        '--data-binary',
        '@cam-1.csr',
        `${gateway.estUrl}/simplereenroll`,
      )
      assert.match(renewal.out, /^HTTP\/1\.1 403 [\s\S]*(certificate|device)_revoked: /)
    })
  },
)
