import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { connect, type IClientOptions, type IConnackPacket, type IPublishPacket, type MqttClient } from 'mqtt'
import { Gateway, needs } from './gateway.ts'

const yaml = 'broker: { listeners: [{ name: web, transport: wss, listen: "127.0.0.1:0" }] }\n'
/** Where Debian's python3-paho-mqtt is, and the Python that finds it. */
const python = '/usr/bin/python3'
const paho = '/usr/lib/python3/dist-packages/paho/mqtt/client.py'

class Peer implements AsyncDisposable {
  readonly client: MqttClient
  readonly connack: Promise<IConnackPacket>
  readonly #messages: IPublishPacket[] = []
  #wake: () => void = () => {}

  constructor(url: string, options: IClientOptions) {
    this.client = connect(url, { reconnectPeriod: 0, ...options })
    this.connack = new Promise((resolve, reject) => {
      this.client.once('connect', resolve).once('error', reject)
    })
    this.client.on('message', (_topic, _payload, packet) => {
      this.#messages.push(packet)
      this.#wake()
    })
  }

  async next(): Promise<IPublishPacket> {
    while (this.#messages.length === 0) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    return this.#messages.shift()!
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.endAsync(true)
  }
}

test('MQTT.js and paho speak 3.1.1 and 5, over TLS and over WebSocket', needs('openssl', 'curl'), async (t) => {
  await using gateway = await Gateway.start('auto', yaml)
  const { rootCertificate, mqtts, listeners } = gateway.endpoints
  const urls = { mqtts, wss: listeners.web! }
  await gateway.enroll('cam-1', 'camera')
  await gateway.enroll('app-1', 'service')
  const peer = (url: string, id: string, options: IClientOptions): Peer =>
    new Peer(url, {
      clientId: id,
      ca: readFileSync(rootCertificate),
      cert: readFileSync(gateway.path(`${id}.crt`)),
      key: readFileSync(gateway.path(`${id}.key`)),
      ...options,
    })

  for (const [transport, url] of Object.entries(urls)) {
    for (const protocolVersion of [4, 5] as const) {
      const speaks = `version ${protocolVersion} over ${transport}`

      await t.test(`MQTT.js, ${speaks}: every QoS, a retained message, a will`, async () => {
        await using app = peer(url, 'app-1', { protocolVersion })
        await app.connack
        const will = {
          topic: 'devices/cam-1/telemetry/will',
          payload: Buffer.from('gone'),
          qos: 1,
          retain: false,
        } as const
        await using camera = peer(url, 'cam-1', { protocolVersion, will })
        await camera.connack
        await camera.client.publishAsync('devices/cam-1/telemetry/kept', 'kept', { qos: 1, retain: true })
        await app.client.subscribeAsync('devices/+/telemetry/#', { qos: 2 })
        assert.partialDeepStrictEqual(await app.next(), { payload: Buffer.from('kept'), qos: 1, retain: true })
        await camera.client.publishAsync('devices/cam-1/telemetry/kept', '', { qos: 1, retain: true })
        assert.partialDeepStrictEqual(await app.next(), { payload: Buffer.alloc(0), retain: false })
        for (const qos of [0, 1, 2] as const) {
          await camera.client.publishAsync('devices/cam-1/telemetry/temp', `${qos}`, { qos })
          assert.partialDeepStrictEqual(await app.next(), { payload: Buffer.from(`${qos}`), qos, dup: false })
        }
        await camera.client.subscribeAsync('devices/cam-1/commands/#', { qos: 1 })
        await app.client.publishAsync('devices/cam-1/commands/reboot', 'now', { qos: 1 })
        assert.partialDeepStrictEqual(await camera.next(), { topic: 'devices/cam-1/commands/reboot' })
        camera.client.stream.destroy()
        assert.partialDeepStrictEqual(await app.next(), { payload: Buffer.from('gone'), qos: 1 })
      })

      await t.test(`MQTT.js, ${speaks}: a session is resumed, with what was published meanwhile`, async () => {
        const properties = { sessionExpiryInterval: 60 }
        const session = (clean: boolean) => peer(url, 'app-1', { protocolVersion, clean, properties })
        {
          await using first = session(false)
          assert.equal((await first.connack).sessionPresent, false)
          await first.client.subscribeAsync('devices/+/telemetry/#', { qos: 1 })
          await first.client.endAsync()
        }
        await using camera = peer(url, 'cam-1', { protocolVersion })
        await camera.client.publishAsync('devices/cam-1/telemetry/missed', 'missed', { qos: 1 })
        {
          await using second = session(false)
          assert.equal((await second.connack).sessionPresent, true)
          assert.partialDeepStrictEqual(await second.next(), { topic: 'devices/cam-1/telemetry/missed', qos: 1 })
        }
        await using clean = peer(url, 'app-1', { protocolVersion })
        assert.equal((await clean.connack).sessionPresent, false)
      })

      await t.test(`paho, ${speaks}`, needs(python, paho), async () => {
        const script = join(import.meta.dirname, 'paho-client.py')
        const { code, out, err } = await gateway.run(python, script, url, String(protocolVersion), rootCertificate)
        assert.equal(code, 0, out + err)
      })
    }

    await t.test(`MQTT.js, version 5 over ${transport}: properties, topic aliases, reasons`, async () => {
      await using app = peer(url, 'app-1', { protocolVersion: 5, properties: { topicAliasMaximum: 5 } })
      await app.client.subscribeAsync('devices/+/telemetry/#', { qos: 1, properties: { subscriptionIdentifier: 7 } })
      await using camera = peer(url, 'cam-1', { protocolVersion: 5, autoAssignTopicAlias: true })
      await camera.connack
      const properties = {
        contentType: 'text/plain',
        responseTopic: 'devices/cam-1/telemetry/answer',
        correlationData: Buffer.from('c1'),
        userProperties: { site: 'berlin' },
      }
      for (const payload of ['first', 'again']) {
        await camera.client.publishAsync('devices/cam-1/telemetry/temp', payload, { qos: 1, properties })
        const got = await app.next()
        assert.equal(String(got.payload), payload)
        assert.partialDeepStrictEqual(got.properties, { ...properties, userProperties: { site: 'berlin' } })
        assert.equal(got.properties?.subscriptionIdentifier, 7)
      }
      await assert.rejects(camera.client.publishAsync('devices/cam-2/telemetry/temp', 'forged', { qos: 1 }), {
        code: 0x87,
      })
    })
  }
})
