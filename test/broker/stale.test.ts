/** A broker that is cut off from enroll, for less and for longer than it may be, as docs/operations.md says. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, before, beforeEach, suite, test } from 'node:test'
import type { IDisconnectPacket } from 'mqtt'
import { asOfNow, expiredAskedMs, staleBounds } from '../../broker/stale.ts'
import { parseHandling } from '../../contract/verification.ts'
import { BrokerHarness, closeOf, EventInbox, parsePolicy, type TestDevice } from '../harness/broker.ts'
import { Cable } from '../harness/cable.ts'

const hour = 3_600_000
/** Longer than this process is ever held up. */
const silenceMs = 500
const policy = parsePolicy(`
policies:
  - { name: own, match: { profile: sensor }, allow: { publish: ["devices/\${device.id}/#"], subscribe: ["x/#"] } }
  - { name: watch, match: { profile: service }, allow: { subscribe: ["$fleetgate/events/#"] } }
`)

let harness: BrokerHarness
let cable: Cable
let skewMs = 0
let devices = 0
before(async () => {
  harness = await BrokerHarness.start({ policy, clock: () => new Date(Date.now() + skewMs) })
  cable = await Cable.lay(() => harness.feed.address)
})
after(async () => {
  await harness[Symbol.asyncDispose]()
  await cable[Symbol.asyncDispose]()
})
beforeEach(() => {
  skewMs = 0
  harness.testLog.lines.length = 0
})

/** With a listener beside the usual one that bears with a broker which is cut off. */
async function startBroker(sessions: 'keep' | 'end'): Promise<void> {
  await harness.stopBroker()
  harness.settings.broker = {
    feed: cable.address,
    stale: { afterMs: hour, silenceMs, sessions },
    metrics: '127.0.0.1:0',
    listeners: [{ name: 'lenient', listen: '127.0.0.1:0', handling: { stale_status: 'grace(12h)' } }],
  }
  await harness.startBroker()
}
const device = (): Promise<TestDevice> => harness.device(`s-${devices++}`)
const lenient = (one: TestDevice) => {
  const { port } = new URL(harness.broker.endpoints.lenient!)
  return harness.refusal(one, { port: Number(port) })
}
/** The last question may be of the test before, whose clock was ahead. */
async function cut(): Promise<void> {
  assert.ok(await harness.broker.feed.sync(10_000))
  cable.cut()
}
const lostAndNoticed = () => harness.testLog.until('feed.disconnected', { detail: 'the feed is silent' })
const follows = async (): Promise<void> => {
  harness.testLog.lines.length = 0
  cable.mend()
  await harness.testLog.until('feed.connected')
}
/** Told to enroll, which cannot tell the broker. */
const revoke = ({ id, serial, fingerprint }: TestDevice): void => {
  harness.feed.append({
    type: 'certificate.revoked',
    data: { serial, fingerprint, deviceId: id, reason: 'keyCompromise' },
  })
}

suite('keeping its sessions', () => {
  before(() => startBroker('keep'))

  test('for less than the bound nothing changes, and what was revoked meanwhile ends when the feed is back', async () => {
    const [thief, other] = [await device(), await device()]
    const client = await harness.connect(thief)
    const closed = closeOf(client)
    await cut()
    revoke(thief)
    await lostAndNoticed()
    skewMs = hour / 2
    assert.equal(await harness.refusal(other), 0, 'who is known comes and goes')
    assert.ok(client.connected)
    await follows()
    await closed
    assert.equal(await harness.refusal(thief), 5)
    assert.equal(harness.testLog.find('snapshot.stale'), undefined)
  })

  test('for longer it lets nobody in and says so; back, it goes on at its cursor, and who was revoked goes before anybody comes', async () => {
    const [thief, known, waiting] = [await device(), await device(), await device()]
    const [thiefs, kept] = [await harness.connect(thief), await harness.connect(known)]
    const service = await harness.device(`app-${devices++}`, { profile: 'service' })
    const events = await EventInbox.open(await harness.connect(service))
    const closed = closeOf(thiefs)
    const cursor = harness.feed.head
    await cut()
    revoke(thief)
    await lostAndNoticed()
    skewMs = 2 * hour
    assert.equal(await harness.refusal(waiting), 3)
    const { reason, detail } = await harness.testLog.until('connection.refused')
    assert.equal(reason, 'snapshot_stale')
    assert.match(String(detail), /^the broker has not heard since 20.*Z who is revoked; try again$/)
    await harness.testLog.until('snapshot.stale', { afterMs: hour, sessions: 'keep' })
    const ready = await fetch(`${harness.broker.probes}/readyz`)
    assert.equal(ready.status, 503)
    assert.match(await ready.text(), /^feed: nobody has said since 20.*Z who is revoked\ncertificate: ok\n/)
    const metrics = await (await fetch(`${harness.broker.probes}/metrics`)).text()
    const parts = [...metrics.matchAll(/^fleetgate_broker_ready\{part="(\w+)"\} (\d)$/gm)].map(([, ...found]) => found)
    assert.deepEqual(parts, [
      ['feed', '0'],
      ['certificate', '1'],
      ['store', '1'],
    ])
    assert.ok(Number(/^fleetgate_broker_feed_age_seconds (\S+)$/m.exec(metrics)?.[1]) >= 7_200)
    await events.until('alert', { kind: 'snapshot_stale' })
    assert.ok(thiefs.connected && kept.connected)
    harness.testLog.lines.length = 0

    // It is connected again, and has not been told everything.
    harness.feed.answering = false
    cable.mend()
    const [hello] = await once(harness.feed, 'hello')
    assert.equal(hello.cursor.seq, cursor)
    assert.equal(await harness.refusal(waiting), 3)
    harness.feed.answering = true
    harness.feed.drop()
    await closed
    await harness.testLog.until('feed.connected')
    assert.equal(await harness.refusal(waiting), 0)
    assert.equal(await harness.refusal(thief), 5)
    assert.ok(kept.connected)
    await events.until('alert', { kind: 'snapshot_current' })
  })

  test('a listener with a grace lets in who is known, until it is over; it ends whom that let in, and no other', async () => {
    const [before, during] = [await device(), await device()]
    const { port } = new URL(harness.broker.endpoints.lenient!)
    const kept = await harness.connect(before, { port: Number(port) })
    await cut()
    await lostAndNoticed()
    const stranger = await harness.strangeDevice(`s-${devices++}`)
    skewMs = 2 * hour
    assert.equal(await lenient(stranger), 3, 'who is not known is to try again')
    const borne = await harness.connect(during, { port: Number(port) })
    const closed = closeOf(borne)
    skewMs = 13 * hour
    assert.equal(await lenient(before), 3)
    await closed
    assert.ok(kept.connected)
    await follows()
    assert.equal(await lenient(during), 0)
  })

  test('it tells enroll how far it goes without it, and what it need not be told of', () => {
    const { bounds, silenceMs: told, snapshots, forgets } = harness.feed.hellos.at(-1)!
    assert.deepEqual([bounds, told], [{ admitsMs: 12 * hour, servesMs: null }, silenceMs])
    assert.deepEqual([snapshots, forgets?.afterMs], [true, 37 * 24 * hour])
  })

  test('before it has read all it asks as well: enroll ends a connection on which nobody says anything', async () => {
    harness.feed.answering = false
    harness.feed.drop()
    await once(harness.feed, 'hello')
    await once(harness.feed, 'ping')
    harness.feed.answering = true
    await follows()
  })
})

suite('ending its sessions', () => {
  before(() => startBroker('end'))

  test('it ends after the bound whom it would not let in, and takes them back when it has caught up', async () => {
    const one = await device()
    const { port } = new URL(harness.broker.endpoints.lenient!)
    const strict = await harness.connect(one, { protocolVersion: 5 })
    const borne = await harness.connect(await device(), { port: Number(port) })
    const told = new Promise<IDisconnectPacket>((resolve) => strict.once('disconnect', resolve))
    const closed = closeOf(strict)
    await cut()
    await lostAndNoticed()
    skewMs = 2 * hour
    assert.match((await told).properties?.reasonString ?? '', /has not heard since .*; denial /)
    await closed
    assert.ok(borne.connected)
    await follows()
    assert.equal(await harness.refusal(one), 0)
    assert.ok(borne.connected)
  })
})

test('what ended long ago is forgotten, unless a listener goes on asking about it', async () => {
  await device()
  const at = new Date(Date.now() + 2_000 * 24 * hour).toISOString()
  const trust = { type: 'trust.changed' as const, data: { anchors: harness.pki.anchors } }
  await harness.feed.untilApplied(harness.feed.append({ ...trust, at } as never))
  const endedFor = async (days: number, expired?: string): Promise<boolean> => {
    await harness.stopBroker()
    harness.testLog.lines.length = 0
    const handling = { stale_status: 'log-only', ...(expired && { expired }) }
    harness.settings.broker = { feed: cable.address, listeners: [{ name: 'mqtts', handling }] }
    skewMs = (30 + days) * 24 * hour
    await harness.startBroker()
    return harness.testLog.find('snapshot.forgot') !== undefined
  }
  assert.equal(await endedFor(36), false, 'sessionExpiryMs, and 30 days')
  assert.equal(await endedFor(1_000, 'quarantine'), false)
  assert.equal(await endedFor(38), true)
})

test('a clock that is set back makes nothing younger that is known, one that is set forward makes it older', () => {
  const then = { at: new Date(10 * hour), ms: 7 }
  const hoursAgo = (hours: number, skew: number): number => {
    const at = new Date(then.at.getTime() + (hours + skew) * hour)
    return (at.getTime() - asOfNow(then, { at, ms: then.ms + hours * hour }).getTime()) / hour
  }
  assert.deepEqual([hoursAgo(2, 0), hoursAgo(2, -5), hoursAgo(2, 3)], [2, 2, 5])
  assert.equal(hoursAgo(0, 2), 2, 'asleep for so long')
})

test('the most lenient listener says how long a broker goes on by itself', () => {
  const bounds = (sessions: 'keep' | 'end', ...texts: string[]) =>
    staleBounds(
      texts.map((text) => parseHandling(text)!),
      { afterMs: hour, sessions, silenceMs },
    )
  assert.deepEqual(bounds('end', 'reject', 'quarantine'), { admitsMs: hour, servesMs: hour })
  assert.deepEqual(bounds('end', 'reject', 'grace(2h)'), { admitsMs: 2 * hour, servesMs: 2 * hour })
  assert.deepEqual(bounds('end', 'grace(1m)'), { admitsMs: hour, servesMs: hour })
  assert.deepEqual(bounds('keep', 'grace(2h)', 'reject'), { admitsMs: 2 * hour, servesMs: null })
  assert.deepEqual(bounds('end', 'log-only', 'reject'), { admitsMs: null, servesMs: null })
})

test('the most lenient listener says how long it is asked what an expired certificate was', () => {
  const asked = (...texts: string[]) => expiredAskedMs(texts.map((text) => parseHandling(text)!))
  assert.equal(asked('reject', 'reject'), 0)
  assert.equal(asked('reject', 'grace(2h)'), 2 * hour)
  for (const forGood of ['quarantine', 'log-only']) assert.equal(asked(forGood, 'grace(2h)'), Number.POSITIVE_INFINITY)
})
