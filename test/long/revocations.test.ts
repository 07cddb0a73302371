/** A broker that is killed while it takes in thousands of revocations: what it has confirmed is in force when it is back. */
import assert from 'node:assert/strict'
import { hash } from 'node:crypto'
import { once } from 'node:events'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { BrokerStore } from '../../broker/store.ts'
import { Snapshot } from '../../broker/trust/snapshot.ts'
import { decodeBody, type FeedFact } from '../../contract/feed.ts'
import { BrokerHarness, type TestDevice } from '../harness/broker.ts'
import { spawnBrokerProcess, startBrokerProcess } from '../harness/broker-process.ts'

const count = 10_000
const kills = 4
let harness: BrokerHarness
let thieves: TestDevice[]
before(async () => {
  harness = await BrokerHarness.start()
  thieves = []
  for (let n = 0; n < kills; n++) thieves.push(await harness.device(`thief-${n}`))
  harness.feed.append(...Array.from({ length: count }, (_, n) => factOf(n, 'certificate.issued')))
  await harness.feed.untilApplied()
  await harness.stopBroker()
})
after(() => harness[Symbol.asyncDispose]())

function factOf(n: number, type: 'certificate.issued' | 'certificate.revoked'): FeedFact {
  const certificate = { serial: '01', fingerprint: hash('sha256', String(n)), deviceId: `cam-${n % 1_000}` }
  return type === 'certificate.issued'
    ? { type, data: { ...certificate, notAfter: '2040-01-01T00:00:00Z' } }
    : { type, data: { ...certificate, reason: 'keyCompromise' } }
}

/** Of the events up to `seq`: revoked certificates that the stored snapshot does not know as that. */
async function missing(seq: number): Promise<string[]> {
  await using store = await BrokerStore.open(join(harness.folder, 'data'))
  await using snapshot = await Snapshot.load(store.snapshot, harness.testLog.log)
  assert.ok(snapshot.cursor.seq >= seq, `${snapshot.cursor.seq} of ${seq} confirmed`)
  return harness.feed.events.slice(0, seq).flatMap((event) => {
    const { type, data } = decodeBody(event)
    if (type !== 'certificate.revoked' || snapshot.findCertificate(data.fingerprint)?.status === 'revoked') return []
    return [data.fingerprint]
  })
}

test('what was confirmed before a kill is in force before enroll is heard again, and the rest comes from the cursor', async () => {
  const perKill = count / kills
  let halfWay = 0
  let confirmed = harness.feed.appliedSeq
  for (let kill = 0; kill < kills; kill++) {
    const { child } = await startBrokerProcess(harness)
    assert.ok(harness.feed.hellos.at(-1)!.cursor.seq >= confirmed, 'nothing that was confirmed is asked for again')
    const begun = harness.feed.head
    const { serial, fingerprint, id } = thieves[kill]!
    const revocations = Array.from({ length: perKill }, (_, n) => factOf(kill * perKill + n, 'certificate.revoked'))
    harness.feed.append(
      { type: 'certificate.revoked', data: { serial, fingerprint, deviceId: id, reason: 'keyCompromise' } },
      ...revocations,
    )
    // At the first confirmation of some of them, and a little later each time.
    for (let heard = 0; heard <= kill; heard++) await harness.feed.untilApplied(begun + 1 + heard * 100)
    confirmed = harness.feed.appliedSeq
    if (confirmed < harness.feed.head) halfWay++
    const exited = once(child, 'exit')
    child.kill('SIGKILL')
    await exited
    assert.deepEqual(await missing(confirmed), [])

    harness.feed.answering = false
    await harness.startDetached()
    assert.equal(await harness.refusal(thieves[kill]!), 5, 'revoked, whatever enroll says')
    await harness.stopBroker()
    harness.feed.answering = true
    harness.feed.appliedSeq = 0
  }
  assert.ok(halfWay > 0, 'no kill came before all was confirmed')
  await harness.startBroker()
  await harness.feed.untilApplied()
  assert.ok(harness.feed.hellos.at(-1)!.cursor.seq > count, 'it went on at its cursor')
  assert.equal(harness.testLog.find('snapshot.damaged'), undefined)
  await harness.stopBroker()
  assert.deepEqual(await missing(harness.feed.head), [])
  await harness.startBroker()
})

test('a kill while a snapshot is told leaves what was known before, or all that was told, and never a part of it', async () => {
  const before = harness.feed.head
  await harness.stopBroker()
  const revoked = Array.from({ length: count + 2_000 }, (_, n) => factOf(n, 'certificate.revoked'))
  harness.feed.append(...revoked.slice(-1))
  harness.feed.shorten(...revoked)
  const outcomes: ('before' | 'after')[] = []
  for (let waitMs = 0; outcomes.at(-1) !== 'after'; waitMs = 2 * waitMs + 50) {
    const child = spawnBrokerProcess(harness)
    const exited = once(child, 'exit')
    await new Promise<void>((resolve) => {
      harness.feed.once('hello', () => {
        // The first before anything is told.
        if (waitMs === 0) child.kill('SIGKILL')
        resolve()
      })
    })
    await delay(waitMs)
    child.kill('SIGKILL')
    await exited
    await using store = await BrokerStore.open(join(harness.folder, 'data'))
    await using snapshot = await Snapshot.load(store.snapshot, harness.testLog.log)
    const known = revoked.filter(
      ({ data }) => 'fingerprint' in data && snapshot.findCertificate(data.fingerprint)?.status === 'revoked',
    ).length
    const { seq } = snapshot.cursor
    assert.ok(
      [`${before} ${count}`, `${harness.feed.head} ${revoked.length}`].includes(`${seq} ${known}`),
      `${seq} ${known}`,
    )
    outcomes.push(seq === before ? 'before' : 'after')
  }
  assert.equal(outcomes[0], 'before')
  assert.equal(harness.testLog.find('snapshot.damaged'), undefined)
  await harness.startBroker()
  assert.equal(harness.feed.hellos.at(-1)!.cursor.seq, harness.feed.head)
})
