import assert from 'node:assert/strict'
import { after, before, suite, test } from 'node:test'
import { type Cursor, decodeBody, startCursor } from '../../contract/feed.ts'
import { chainHash } from '../../runtime/chain.ts'
import { EnrollHarness } from '../harness/fleet.ts'
import { followFeed } from '../harness/follower.ts'

suite('the trust feed', () => {
  let fleet: EnrollHarness
  before(async () => {
    fleet = await EnrollHarness.start()
    await fleet.enrolledDevice('cam-1')
  })
  after(() => fleet[Symbol.asyncDispose]())

  test('backfills from the cursor, says live, then sends what happens, each event once and chained', async () => {
    await using feed = await followFeed(fleet, startCursor)
    const live = await feed.see(({ kind }) => kind === 'live')
    const backfilled = feed.events.length
    assert.ok(live?.kind === 'live' && live.seq === backfilled)
    assert.deepEqual(decodeBody(feed.events[0]!).type, 'trust.changed')
    await fleet.enrolledDevice('cam-2')
    await feed.until(backfilled + 2)
    let cursor: Cursor = startCursor
    for (const { seq, hash, body } of feed.events) {
      assert.equal(seq, cursor.seq + 1)
      assert.equal(hash, chainHash(cursor.hash, body))
      cursor = { seq, hash }
    }
    assert.equal(
      feed.messages.some(({ kind }) => kind === 'reset'),
      false,
    )

    await using resumed = await followFeed(fleet, { seq: feed.events[1]!.seq, hash: feed.events[1]!.hash })
    await resumed.see(({ kind }) => kind === 'live')
    assert.equal(resumed.events[0]!.seq, 3)
  })

  test('a cursor of another feed is answered with a reset and everything from the start', async () => {
    for (const cursor of [
      { seq: 2, hash: 'ab'.repeat(32) },
      { seq: 9_999, hash: 'ab'.repeat(32) },
    ]) {
      await using feed = await followFeed(fleet, cursor)
      await feed.see(({ kind }) => kind === 'live')
      assert.equal(feed.messages[0]!.kind, 'reset')
      assert.equal(feed.events[0]!.seq, 1)
    }
  })

  test('a pong comes after every event that was committed before its ping', async () => {
    await using feed = await followFeed(fleet, startCursor)
    await feed.see(({ kind }) => kind === 'live')
    for (let id = 0; id < 20; id++) {
      const { body } = await fleet.admin('POST', '/devices', { id: `ping-${id}`, profile: 'sensor' })
      assert.equal(body.id, `ping-${id}`)
      feed.send({ kind: 'ping', id })
      await feed.see((message) => message.kind === 'pong' && message.id === id)
      assert.ok(feed.events.some(({ body }) => body.includes(`"ping-${id}"`)))
    }
  })

  test('status tells who follows and how far; a broker that went away is still named', async () => {
    const feed = await followFeed(fleet, startCursor)
    await feed.see(({ kind }) => kind === 'live')
    feed.send({ kind: 'applied', seq: 2 })
    feed.send({ kind: 'ping', id: 1 })
    await feed.see(({ kind }) => kind === 'pong')
    const connected = (await fleet.admin('GET', '/status')).body.brokers
    assert.deepEqual([connected[0].id, connected[0].connected, connected[0].appliedSeq], ['broker-1', true, 2])
    await feed[Symbol.asyncDispose]()
    let gone = connected
    while (gone[0].connected) gone = (await fleet.admin('GET', '/status')).body.brokers
    assert.deepEqual([gone[0].id, gone[0].connected], ['broker-1', false])
  })

  test('a device, an operator and a stranger cannot follow', async () => {
    const device = await fleet.enrolledDevice('spy-1')
    const { key, cert } = fleet.operator
    for (const credential of [{ key: device.key, cert: device.certificate }, { key, cert }, {}]) {
      await using feed = await followFeed(fleet, startCursor, credential)
      assert.equal(await feed.see(() => true), undefined)
      assert.ok(feed.socket.destroyed)
    }
  })

  test('a line that is not of the protocol ends the connection', async () => {
    for (const line of ['garbage\n', '{"kind":"applied","seq":1}\n', `"${'x'.repeat(5_000_000)}`]) {
      await using feed = await followFeed(fleet, undefined)
      feed.socket.write(line)
      assert.equal(await feed.see(() => true), undefined)
    }
  })
})
