import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Message, SessionStore, Will } from '../../broker/backends/session-store.ts'
import { Wills } from '../../broker/wills.ts'
import { RouteIndex } from '../../broker/wire/route-index.ts'
import { policyDocument } from '../../contract/policy-document.ts'
import { compilePolicy } from '../../contract/policy-matcher.ts'
import { type CertificateFacts, parsePem } from '../../pki/certificate.ts'
import { valuesOf } from '../../pki/names.ts'
import { FleetError } from '../../runtime/errors.ts'
import { TestLog } from '../harness/broker.ts'
import { TestPki } from '../harness/certificates.ts'
import { start } from '../suites/session-store.ts'
import { forGood, message, openStore, stored } from './with-store.ts'

const will = (text: string, more: Partial<Will> = {}): Will => ({
  message: message(`will/${text}`, text),
  delayMs: 0,
  ...more,
})
const anything = policyDocument.parse({ policies: [{ name: 'all', allow: { publish: ['#'] } }] })
const down = new FleetError('unavailable', 'no disk')

/** Wills over the real store and index. The test says who may publish, who is connected, and when the store fails. */
async function open() {
  const clock = { now: start }
  const owned = await openStore(clock)
  const index = new RouteIndex({ seed: 1, cachedTopics: 64 })
  const testLog = new TestLog()
  const did: string[] = []
  const asked: (CertificateFacts | undefined)[] = []
  const gate = {
    isLive: true,
    revoked: new Set<string>(),
    isRevoked: (id: string) => gate.revoked.has(id),
    factsOfClient: () => undefined,
    stamped: (message: Message) => message,
    matcherOfClient: (clientId: string, certificate: CertificateFacts | undefined) => {
      asked.push(certificate)
      return compilePolicy(clientId.startsWith('denied') ? { policies: [] } : anything, {})
    },
  }
  let isDown = false
  const store = new Proxy(owned.store, {
    get(target, name) {
      const value = Reflect.get(target, name)
      if (typeof value !== 'function') return value
      if (isDown && name === 'sessions') throw down
      return isDown && name !== Symbol.asyncDispose ? () => Promise.reject(down) : value.bind(target)
    },
  }) as SessionStore
  const held = new Set<string>()
  const router = {
    retain: async ({ payload }: Message) => void did.push(`retained ${payload}`),
    route: async ({ payload, properties, expiresAt }: Message) => {
      if (isDown) throw down
      await hooks.routing()
      const expiry = expiresAt === undefined ? '' : ` expires ${expiresAt - clock.now}`
      did.push(`routed ${payload}${properties === undefined ? '' : ` ${Object.keys(properties)}`}${expiry}`)
      return true
    },
  }
  const swept: string[] = []
  const hooks = { routing: async (): Promise<void> => {} }
  const wills = owned.use(
    new Wills({
      store,
      router,
      retained: { swept: (topics) => void swept.push(...topics), purge: async () => 0 },
      index,
      gate,
      sessions: { isHeld: (clientId) => held.has(clientId) },
      quotas: { borrow: (deviceId) => deviceId !== 'spent-1' },
      clock: () => new Date(clock.now),
      log: testLog.log,
      onDenied: ({ clientId, message, reason }) => did.push(`denied ${clientId} ${message.topic} ${reason}`),
    }),
  )
  const claim = async (clientId: string, more?: Will, keepMs = Number.POSITIVE_INFINITY): Promise<number> => {
    const { epoch } = await owned.store.claim(clientId, 'b', { keepMs })
    if (more !== undefined) await owned.store.putWill(clientId, epoch, more)
    return epoch
  }
  const setDown = (value: boolean): void => {
    isDown = value
  }
  return Object.assign(owned, { wills, index, clock, did, asked, gate, held, swept, claim, setDown, hooks, testLog })
}

const leaving = (
  clientId: string,
  epoch: number,
  more: { dropsWill?: boolean; keepUntil?: number | 'forget' } = {},
) => ({
  clientId,
  epoch,
  dropsWill: false,
  keepUntil: Number.POSITIVE_INFINITY,
  ...more,
})

test('the will of a device that owes too much by its rate is dropped, and said so', async () => {
  await using all = await open()
  await all.wills.leave(leaving('spent-1', await all.claim('spent-1', will('x'))))
  await all.wills.publishDue()
  assert.deepEqual(all.did, ['denied spent-1 will/x rate_limited'])
})

test('a will is published once, when its delay is over; its expiry begins then', async () => {
  await using all = await open()
  const late = message('will/late', 'late', {
    properties: { contentType: 'x', messageExpiryInterval: 5 },
    retain: true,
  })
  await all.wills.leave(leaving('a', await all.claim('a', will('now'))))
  await all.wills.leave(leaving('b', await all.claim('b', { message: late, delayMs: 10_000 })))
  await all.wills.publishDue()
  assert.deepEqual(all.did, ['routed now'])
  all.clock.now = start + 10_000
  await all.wills.publishDue()
  await all.wills.publishDue()
  assert.deepEqual(all.did.slice(1), ['retained late', 'routed late contentType expires 5000'])
})

test('a will that is dropped, or of a session that goes on in time, is not published', async () => {
  await using all = await open()
  await all.wills.leave(leaving('a', await all.claim('a', will('a')), { dropsWill: true }))
  await all.wills.leave(leaving('b', await all.claim('b', will('b', { delayMs: 10_000 }))))
  await all.claim('b')
  all.clock.now = start + 10_000
  await all.wills.publishDue()
  assert.deepEqual(all.did, [])
})

test('the policy is asked with the certificate that the will was left under; what it denies is told of and gone', async () => {
  await using all = await open()
  const pki = await TestPki.create()
  const [certificate] = parsePem((await pki.device('denied-1', { organizationalUnits: ['plant'] })).pem, 'CERTIFICATE')
  await all.wills.leave(leaving('denied-1', await all.claim('denied-1', will('x', { certificate: certificate! }))))
  await all.wills.leave(leaving('bare', await all.claim('bare', will('y'))))
  for (let round = 0; round < 2; round++) await all.wills.publishDue()
  assert.deepEqual(all.did.toSorted(), ['denied denied-1 will/x will_denied', 'routed y'])
  const units = all.asked.map((facts) => facts && valuesOf(facts.subject, 'OU'))
  assert.deepEqual(
    units.filter((names) => names !== undefined),
    [['plant']],
  )
})

test('nothing is published before it is known who is revoked', async () => {
  await using all = await open()
  all.gate.isLive = false
  await all.wills.leave(leaving('a', await all.claim('a', will('a'))))
  await all.wills.publishDue()
  assert.deepEqual(all.did, [])
  all.gate.isLive = true
  await all.wills.publishDue()
  assert.deepEqual(all.did, ['routed a'])
})

test('a will that could not be routed is published later, and the others with it', async () => {
  await using all = await open()
  for (const id of ['a', 'b']) await all.wills.leave(leaving(id, await all.claim(id, will(id))))
  all.setDown(true)
  await all.wills.publishDue()
  assert.ok(all.testLog.find('broker.failed'))
  all.setDown(false)
  await all.wills.publishDue()
  assert.deepEqual(all.did, ['routed a', 'routed b'])
})

test('wills that are due together do not wait for each other to be stored', async () => {
  await using all = await open()
  const [ids, together] = [['a', 'b', 'c'], Promise.withResolvers<void>()]
  for (const id of ids) await all.wills.leave(leaving(id, await all.claim(id, will(id))))
  let routing = 0
  all.hooks.routing = () => {
    if (++routing === ids.length) together.resolve()
    return together.promise
  }
  await all.wills.publishDue()
  assert.deepEqual(all.did.toSorted(), ['routed a', 'routed b', 'routed c'])
})

test('who waits for a will does not wait for those that become due meanwhile', async () => {
  await using all = await open()
  let last = 0
  const leave = async (): Promise<void> => {
    const id = `cam-${++last}`
    await all.wills.leave(leaving(id, await all.claim(id, will(id))))
  }
  await leave()
  all.hooks.routing = async () => {
    all.clock.now++
    if (last < 5) await leave()
  }
  await all.wills.publishDue()
  assert.deepEqual(all.did, ['routed cam-1'])
})

test('publishNow publishes the will of a connection that is there still, once', async () => {
  await using all = await open()
  const epoch = await all.claim('a', will('a'))
  await all.wills.publishNow('a', epoch)
  await all.wills.publishNow('a', epoch)
  assert.deepEqual(all.did, ['routed a'])
})

test('a session that has ended is forgotten with its routes, unless somebody is on the way to it', async () => {
  await using all = await open()
  for (const id of ['a', 'b']) {
    const epoch = await all.claim(id)
    await all.store.changeSubscriptions(id, epoch, [stored('t')], [])
    all.index.add({ clientId: id, granted: 2, ...stored('t') })
    await all.wills.leave(leaving(id, epoch, { keepUntil: start + 1_000 }))
  }
  all.held.add('b')
  all.clock.now = start + 1_000
  await all.wills.publishDue()
  assert.deepEqual(
    all.index.match('t').deliveries.map(({ clientId }) => clientId),
    ['b'],
  )
  assert.equal((await all.store.claim('a', 'b', forGood)).present, false)
})

test('what expired among the retained messages is told to who keeps their topics', async () => {
  await using all = await open()
  await all.store.retain('r', message('r', 'm', { retain: true, expiresAt: start + 1_000 }))
  all.clock.now = start + 1_000
  await all.wills.publishDue()
  assert.deepEqual(all.swept, ['r'])
})

for (const [how, more] of [
  ['to be kept', {}],
  ['to be forgotten, without its will', { dropsWill: true, keepUntil: 'forget' }],
] as const) {
  test(`a session ${how} that the store does not release now is released once it does`, async () => {
    await using all = await open()
    const epoch = await all.claim('a', will('a'))
    all.setDown(true)
    await all.wills.leave(leaving('a', epoch, more))
    await all.wills.publishDue()
    assert.ok(all.testLog.find('broker.failed', { what: 'session a' }))
    all.setDown(false)
    await all.wills.publishDue()
    const isKept = how === 'to be kept'
    assert.deepEqual(all.did, isKept ? ['routed a'] : [])
    const claim = await all.store.claim('a', 'b', forGood)
    assert.deepEqual([claim.present, claim.formerOwner], [isKept, undefined])
  })
}

test('a session that another connection goes on with is not released by the one before it', async () => {
  await using all = await open()
  const epoch = await all.claim('a')
  all.setDown(true)
  await all.wills.leave(leaving('a', epoch, { keepUntil: 'forget' }))
  all.setDown(false)
  const next = await all.claim('a')
  await all.wills.publishDue()
  await all.store.ack('a', next, [1])
  assert.equal(all.testLog.lines.filter(({ event }) => event === 'broker.failed').length, 1)
})

test('the sessions of a revoked device are dropped, later where the store is down, and not if it is not revoked any more', async () => {
  await using all = await open()
  for (const id of ['a', 'a:2', 'b']) {
    const epoch = await all.claim(id)
    await all.store.changeSubscriptions(id, epoch, [stored('t')], [])
    all.index.add({ clientId: id, granted: 2, ...stored('t') })
  }
  const routed = (): string[] => all.index.match('t').deliveries.map(({ clientId }) => clientId)
  all.gate.revoked.add('a')
  all.setDown(true)
  await all.wills.forget('a')
  await all.wills.forget('b')
  assert.deepEqual(routed(), ['a', 'a:2', 'b'])
  all.setDown(false)
  await all.wills.publishDue()
  assert.deepEqual(routed(), ['b'])
  assert.equal((await all.store.claim('b', 'b', forGood)).present, true)
})

test('of many devices that are revoked the sessions are dropped later, too, where the store is down', async () => {
  await using all = await open()
  for (const id of ['a', 'b', 'c']) await all.claim(id)
  for (const id of ['a', 'c']) all.gate.revoked.add(id)
  all.setDown(true)
  await all.wills.forgetRevoked()
  assert.equal(all.testLog.lines.filter(({ event }) => event === 'broker.failed').length, 1)
  all.setDown(false)
  await all.wills.publishDue()
  const there: string[] = []
  for await (const { clientId } of all.store.sessions()) there.push(clientId)
  assert.deepEqual(there, ['b'])
})

test('a session that begins while its device is being dropped keeps its routes', async () => {
  await using all = await open()
  await all.store.changeSubscriptions('a', await all.claim('a'), [stored('old')], [])
  all.index.add({ clientId: 'a', granted: 2, ...stored('old') })
  all.gate.revoked.add('a')
  const dropped = all.wills.forget('a')
  const changing = all.claim('a').then((epoch) => {
    const changed = all.store.changeSubscriptions('a', epoch, [stored('new')], [])
    all.index.add({ clientId: 'a', granted: 2, ...stored('new') })
    return changed
  })
  await Promise.all([dropped, changing])
  assert.deepEqual(
    all.index.filtersOf('a').map(({ filter }) => filter),
    ['new'],
  )
})

test('what goes wrong for another reason than the store is told of and not tried for ever', async () => {
  await using all = await open()
  const epoch = await all.claim('a')
  all.gate.isRevoked = () => {
    throw new TypeError('a fault')
  }
  await all.wills.forget('a')
  await all.wills.publishDue()
  assert.equal(all.testLog.lines.length, 1)
  await all.store.ack('a', epoch, [])
})
