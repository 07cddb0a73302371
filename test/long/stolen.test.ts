/** `device stolen`, and either process killed at any moment of it: what it does is done in the end, and nothing that was said is lost. */
import assert from 'node:assert/strict'
import { after, before, suite, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { connectAsync, type IClientOptions, type MqttClient } from 'mqtt'
import { enrollIdentity, type Identity } from '../../device-sim/identity.ts'
import { Inbox } from '../harness/broker.ts'
import { LiveGateway } from '../harness/live-gateway.ts'

const rounds = 2
const topicOf = (id: string): string => `devices/${id}/telemetry/last`

suite('a device is reported as stolen, and a process is killed', () => {
  let live: LiveGateway
  let service: Identity
  before(async () => {
    live = await LiveGateway.start()
    service = await enroll('dashboard', 'service')
    const keeper = await connect(await enroll('keeper', 'camera'), 'keeper')
    await keeper.publishAsync(topicOf('keeper'), 'kept', { qos: 1, retain: true })
    keeper.end(true)
  })
  after(() => live[Symbol.asyncDispose]())

  const enroll = async (id: string, profile: string): Promise<Identity> =>
    enrollIdentity(live.server.est, id, await live.server.operator.createToken(id, profile))

  const connect = (identity: Identity, clientId: string, more: IClientOptions = {}): Promise<MqttClient> =>
    connectAsync(live.server.mqtts, {
      ...{ ca: live.rootPem, key: identity.privateKeyPem, cert: identity.chainPem, rejectUnauthorized: true },
      ...{ clientId, protocolVersion: 5, reconnectPeriod: 0, ...more },
    })

  /** Tries while the broker is not back, or has not caught up; the code of a refusal otherwise. */
  async function outcomeOf(identity: Identity, id: string): Promise<number | 'connected'> {
    for (let left = 200; ; left--) {
      try {
        ;(await connect(identity, id)).end(true)
        return 'connected'
      } catch (error) {
        const { code } = error as { code?: unknown }
        if (typeof code === 'number' && code !== 136) return code
        if (left === 0) throw error
        await delay(50)
      }
    }
  }

  async function untilConnected(clientId: string): Promise<MqttClient> {
    for (let left = 200; ; left--) {
      try {
        return await connect(service, clientId)
      } catch (error) {
        if (left === 0) throw error
        await delay(50)
      }
    }
  }

  async function stolenUntilInForce(id: string) {
    for (let left = 100; ; left--) {
      try {
        const receipt = await live.admin.reportStolen(id, 10_000)
        if (receipt.inForce) return receipt
      } catch (error) {
        if (left === 0) throw error
      }
      await delay(50)
    }
  }

  for (const victim of ['enroll', 'broker'] as const) {
    test(`${victim}, at any moment: in the end the device is out, what it left is gone, and an answer that was given stands`, async () => {
      for (let round = 0; round < rounds; round++) {
        const id = `thief-${victim}-${round}`
        const identity = await enroll(id, 'camera')
        const watcher = await untilConnected('dashboard:watcher')
        const seen = new Inbox(watcher)
        await watcher.subscribeAsync(`devices/${id}/telemetry/#`, { qos: 1 })
        const will = {
          topic: `devices/${id}/telemetry/will`,
          payload: Buffer.from('gone'),
          qos: 1 as const,
          retain: false,
        }
        const thief = await connect(identity, id, { will })
        thief.on('error', () => {})
        const cut = new Promise<void>((resolve) => thief.once('close', () => resolve()))
        await thief.publishAsync(topicOf(id), 'stolen goods', { qos: 1, retain: true })

        const first = live.admin.reportStolen(id, 5_000).catch(() => undefined)
        await delay(Math.random() * 12)
        await live.crash(victim)
        const answered = await first
        const receipt = await stolenUntilInForce(id)
        await cut
        if (answered !== undefined) {
          assert.deepEqual([receipt.alreadyStolen, receipt.incident], [true, answered.incident])
          assert.deepEqual(receipt.sessions.slice(0, answered.sessions.length), answered.sessions)
        }
        const { status } = await live.admin.getDevice(id)
        assert.deepEqual([status, await outcomeOf(identity, id)], ['revoked', 135])
        const { evidence } = await live.admin.getIncident(receipt.incident)
        assert.equal(evidence[0]?.what, 'device.stolen')
        if (victim === 'enroll') {
          // The broker went on: it has ended the session itself, and says so as soon as there is somebody to hear it.
          while ((await stolenUntilInForce(id)).sessions.length === 0) await delay(20)
          assert.equal(seen.messages.filter(({ topic }) => topic.endsWith('/will')).length, 0)
        }
        watcher.end(true)
        const reader = await untilConnected('dashboard:reader')
        const found = new Inbox(reader)
        await reader.subscribeAsync(topicOf(id), { qos: 1 })
        await reader.subscribeAsync(topicOf('keeper'), { qos: 1 })
        await found.until('kept')
        assert.deepEqual(found.payloads, ['kept'])
        reader.end(true)
      }
    })
  }
})
