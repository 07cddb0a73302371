import assert from 'node:assert/strict'
import { EventEmitter, once } from 'node:events'
import { connect } from 'node:net'
import { join } from 'node:path'
import { after, before, suite, test } from 'node:test'
import { TLSSocket } from 'node:tls'
import { Snapshot } from '../../broker/trust/snapshot.ts'
import { type BrokerReport, maxReportLength } from '../../contract/broker-reports.ts'
import type { ListenerVerdict } from '../../contract/certificate-verdicts.ts'
import {
  type Cursor,
  decodeBody,
  encodeLine,
  type FeedData,
  type FeedEvent,
  type FeedFact,
  type FromEnroll,
  startCursor,
} from '../../contract/feed.ts'
import type { LiveSession as Session } from '../../contract/live-sessions.ts'
import { Follower as Following } from '../../enroll/feed-follower.ts'
import { shortenFeed } from '../../enroll/feed-shortening.ts'
import { openDatabase } from '../../enroll/registry/database.ts'
import { Registry } from '../../enroll/registry/registry.ts'
import { createCsr } from '../../pki/x509.ts'
import { chainHash } from '../../runtime/chain.ts'
import { splitAddress } from '../../runtime/config.ts'
import { createLog } from '../../runtime/log.ts'
import { codeOf, EnrollHarness, pemToDer, testConfiguration } from '../harness/fleet.ts'
import { type Follower, followFeed } from '../harness/follower.ts'

suite('the trust feed', () => {
  let fleet: EnrollHarness
  before(async () => {
    fleet = await EnrollHarness.start({ config: testConfiguration({ enroll: { reportsPerSecond: 1 } }) })
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

  test('a report is noted once it is in the audit log, and has one effect however often it comes', async () => {
    await using feed = await followFeed(fleet, startCursor)
    const live = await feed.see(({ kind }) => kind === 'live')
    assert.ok(live?.kind === 'live' && live.notes)
    const alert = {
      type: 'alert' as const,
      at: new Date().toISOString(),
      kind: 'stolen' as const,
      deviceId: 'cam-1' as never,
      listener: 'mqtts',
      remoteAddress: '192.0.2.7',
      detail: 'its key was used',
      count: 1,
    }
    const id = '0000-0001'
    for (const times of [1, 2]) {
      feed.send({ kind: 'report', id, report: alert })
      await feed.see(
        () => feed.messages.filter((message) => message.kind === 'noted' && message.id === id).length === times,
      )
    }
    const { items } = (await fleet.admin('GET', '/audit')).body
    const told = items.filter(({ action }: { action: string }) => action === 'alert.raised')
    assert.equal(told.length, 1)
    const { actor, subject, remoteAddress, details } = told[0]
    assert.deepEqual([actor, subject, remoteAddress], ['broker:broker-1', 'device:cam-1', '192.0.2.7'])
    assert.equal(details.detail, 'its key was used')
    // What cannot be read, or is too large, leaves no trace and does not come again.
    for (const report of [
      { ...alert, detail: 'x'.repeat(301) },
      { type: 'other' },
      null,
      { ...alert, deviceId: '#' },
    ]) {
      const id = `0000-1${feed.messages.length}`
      feed.send({ kind: 'report', id, report: report as never })
      await feed.see((message) => message.kind === 'noted' && message.id === id)
    }
    const after = (await fleet.admin('GET', '/audit')).body.items
    assert.equal(after.filter(({ action }: { action: string }) => action === 'alert.raised').length, 1)
  })

  test('a first use is noted at the certificate that it names, and at no other', async () => {
    const { serial } = await fleet.enrolledDevice('cam-used')
    const { body: before } = await fleet.admin('GET', `/certificates/${serial}`)
    await using feed = await followFeed(fleet, startCursor)
    const at = new Date().toISOString()
    const use = async (id: string, fingerprint: string): Promise<string | undefined> => {
      const peer = { listener: 'mqtts', remoteAddress: '192.0.2.7', deviceId: 'cam-used' }
      feed.send({ kind: 'report', id, report: { type: 'certificate.used', at, serial, fingerprint, ...peer } as never })
      await feed.see((message) => message.kind === 'noted' && message.id === id)
      return (await fleet.admin('GET', `/certificates/${serial}`)).body.firstUsedAt
    }
    assert.equal(await use('0000-2001', 'ab'.repeat(32)), undefined)
    assert.equal(await use('0000-2002', before.fingerprint), at)
  })

  test('what is seen of a stolen device is evidence of its incident, until that is closed; then another is opened', async () => {
    const { key } = await fleet.enrolledDevice('cam-stolen')
    const stolen = (await fleet.admin('POST', '/devices/cam-stolen/stolen')).body
    await using feed = await followFeed(fleet, startCursor)
    await feed.see(({ kind }) => kind === 'live')
    const at = new Date().toISOString()
    const peer = { deviceId: 'cam-stolen', listener: 'mqtts', remoteAddress: '192.0.2.7' }
    const cut = { type: 'session.cut', reason: 'device_revoked', state: 'live', isResumed: false, connectedAt: at, at }
    const counts = { tookMs: 1, packetsIn: 1, bytesIn: 1, packetsOut: 1, bytesOut: 1, publish: ['a'], subscribe: [] }
    const alert = { type: 'alert', kind: 'stolen', at, detail: 'its key was used', count: 1, ...peer }
    const report = async (id: string, report: object): Promise<void> => {
      feed.send({ kind: 'report', id, report: report as BrokerReport })
      await feed.see((message) => message.kind === 'noted' && message.id === id)
    }
    await report('0000-5001', { ...cut, ...counts, ...peer })
    await report('0000-5002', alert)
    const { body } = await fleet.admin('GET', `/incidents/${stolen.incident}`)
    assert.deepEqual(
      body.evidence.map((one: { what: string; by: string }) => `${one.what} ${one.by}`),
      ['device.stolen enroll', 'session.cut broker-1', 'alert.raised broker-1'],
    )
    // Its key in a request, from one address again and again.
    const csr = await createCsr({ privateKeyPem: key, commonName: 'cam-other' })
    const token = await fleet.token('cam-other')
    for (const _ of [1, 2]) assert.equal(codeOf(await fleet.enroll('cam-other', token, csr)), 'key_compromised')
    const kinds = async () => {
      const { evidence } = (await fleet.admin('GET', `/incidents/${stolen.incident}`)).body
      return evidence.map(({ details }: { details: { kind?: string } }) => details.kind).slice(2)
    }
    while ((await kinds()).length < 2);
    const alerts = (): FeedEvent[] => feed.events.filter((event) => decodeBody(event).type === 'alert.raised')
    await feed.see(() => alerts().length > 0)
    const { data } = decodeBody(alerts()[0]!) as { data: FeedData['alert.raised'] }
    assert.deepEqual([data.kind, data.deviceId, data.incident], ['key_reused', 'cam-stolen', stolen.incident])
    assert.equal(alerts().length, 1, 'a broker that has raised one has told of it itself')
    assert.deepEqual(await kinds(), ['stolen', 'key_reused'])

    const close = (note: string) => fleet.admin('POST', `/incidents/${stolen.incident}/close`, { note })
    const { body: closed } = await close('found, wiped')
    assert.deepEqual([closed.note, closed.closedBy], ['found, wiped', 'operator:operator'])
    assert.deepEqual((await close('another note')).body, closed)
    await report('0000-5003', alert)
    const { items } = (await fleet.admin('GET', '/incidents?deviceId=cam-stolen&open=true')).body
    assert.deepEqual([items.length, items[0].openedBy, items[0].evidence.length], [1, 'system', 1])
    assert.equal((await fleet.admin('GET', '/incidents?deviceId=cam-stolen')).body.items.length, 2)
    assert.equal((await fleet.admin('GET', '/incidents/000000000000')).status, 404)
    assert.equal((await fleet.admin('POST', `/incidents/${items[0].id}/close`, { note: '\u0007' })).status, 400)
  })

  test('a broker that does not take its answers holds up no receipt, and cannot ask without end', async (t) => {
    await fleet.enrolledDevice('cam-slow')
    await using feed = await followFeed(fleet, startCursor)
    await feed.see(({ kind }) => kind === 'live')
    const { write } = TLSSocket.prototype
    // What the system takes before it says so are megabytes.
    t.mock.method(TLSSocket.prototype, 'write', function (this: TLSSocket, line: string) {
      return write.call(this, line) && !/"(noted|pong)"/.test(line)
    })
    feed.send({ kind: 'report', id: '0000-6001', report: { type: 'session.cut' } as never })
    const at = new Date().toISOString()
    const use = { at, listener: 'mqtts', remoteAddress: '192.0.2.7', serial: '01', fingerprint: 'ab'.repeat(32) }
    const report = { type: 'certificate.used', deviceId: 'cam-slow', ...use } as const
    feed.send({ kind: 'report', id: '0000-6002', report: report as never })
    await feed.see((message) => message.kind === 'noted' && message.id === '0000-6002')
    assert.equal((await fleet.admin('POST', '/devices/cam-slow/stolen', { waitMs: 0 })).status, 200)
    const pings = Array.from({ length: 10_000 }, (_, id) => encodeLine({ kind: 'ping', id })).join('')
    for (let times = 0; times < 6; times++) feed.socket.write(pings)
    await feed.see(() => false)
    assert.ok(feed.socket.destroyed)
  })

  test('a broker that is gone before its hello was answered is not taken for connected', async () => {
    const feed = await followFeed(fleet, undefined)
    feed.socket.end(encodeLine({ kind: 'hello', protocol: 1, broker: 'broker-1', cursor: startCursor }))
    await feed.see(() => false)
    await fleet.enrolledDevice('cam-later')
    assert.equal((await fleet.admin('GET', '/status')).body.brokers[0].connected, false)
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

  test('a broker says how far it goes without us: status and receipts name when, counted from its last question', async () => {
    const status = async () => (await fleet.admin('GET', '/status')).body.brokers[0]
    const hello = { kind: 'hello', protocol: 1, broker: 'broker-1', cursor: startCursor } as const
    const feed = await followFeed(fleet, undefined)
    const bounds = { admitsMs: 3_600_000, servesMs: null }
    feed.send({ ...hello, bounds })
    await feed.see(({ kind }) => kind === 'live')
    const first = await status()
    feed.send({ kind: 'ping', id: 1 })
    await feed.see(({ kind }) => kind === 'pong')
    const asked = await status()
    assert.ok(asked.admitsUntil > first.admitsUntil)
    assert.equal(asked.servesUntil, null)
    await feed[Symbol.asyncDispose]()
    let gone = await status()
    while (gone.connected) gone = await status()
    assert.deepEqual([gone.admitsUntil, gone.servesUntil], [asked.admitsUntil, null])
    await fleet.enrolledDevice('cam-lost')
    const { body } = await fleet.admin('POST', '/devices/cam-lost/revoke', { reason: 'keyCompromise' })
    const [{ confirmed, admitsUntil, servesUntil }] = body.brokers
    assert.deepEqual([confirmed, admitsUntil, servesUntil], [false, asked.admitsUntil, null])

    // As it was written, also where the process that wrote it is gone.
    await fleet.close()
    await fleet.open()
    assert.equal((await status()).admitsUntil, asked.admitsUntil)
    for (const unsaid of [{}, { bounds: { admitsMs: -1, servesMs: null } }, { bounds: 'never' as never }]) {
      await using other = await followFeed(fleet, undefined)
      other.send({ ...hello, ...unsaid })
      await other.see(({ kind }) => kind === 'live')
      assert.equal('admitsUntil' in (await status()), false)
    }
  })

  test('a broker that has promised to ask and is silent is not taken for connected', async () => {
    await using feed = await followFeed(fleet, undefined)
    feed.send({ kind: 'hello', protocol: 1, broker: 'broker-1', cursor: startCursor, silenceMs: 200 })
    await feed.see(({ kind }) => kind === 'live')
    await feed.see(() => false)
    assert.ok(feed.socket.destroyed)
  })

  const session = (clientId: string, more: object = {}) => ({
    clientId,
    deviceId: clientId.split(':')[0]!,
    listener: 'main',
    remoteAddress: '192.0.2.9',
    connectedAt: '2026-01-01T00:00:00.000Z',
    isResumed: false,
    packetsIn: 1,
    bytesIn: 2,
    packetsOut: 3,
    bytesOut: 4,
    ...more,
  })
  const askable = async (questions: string[]) => {
    const feed = await followFeed(fleet, undefined)
    feed.send({ kind: 'hello', protocol: 1, broker: 'broker-1', cursor: startCursor, answers: true, questions })
    await feed.see(({ kind }) => kind === 'live')
    return feed
  }
  const asked = async (feed: Follower, id: number) => {
    const message = await feed.see((one) => one.kind === 'ask' && one.id === id)
    const { kind: _kind, id: _id, ...question } = message as { kind: string; id: number }
    return question
  }

  test('brokers are asked who is connected, page by page; what is not in the agreed form is left out', async () => {
    await using feed = await askable(['sessions', 'more'])
    const first = fleet.admin('GET', '/sessions?deviceId=cam-1,cam-2&listener=main&limit=2')
    assert.deepEqual(await asked(feed, 1), {
      sessions: { deviceIds: ['cam-1', 'cam-2'], listener: 'main', from: '', limit: 3 },
    })
    const all = [session('cam-1'), session('cam-1:b'), session('cam-2')]
    feed.send({ kind: 'answer', id: 1, sessions: all })
    const { body } = await first
    assert.deepEqual(body.items, [
      { ...session('cam-1'), broker: 'broker-1' },
      { ...session('cam-1:b'), broker: 'broker-1' },
    ])
    const next = fleet.admin('GET', `/sessions?limit=2&broker=broker-1&after=${encodeURIComponent(body.next)}`)
    assert.deepEqual(await asked(feed, 2), { sessions: { from: 'cam-1:b', limit: 3 } })
    feed.send({ kind: 'answer', id: 2, sessions: [...all.slice(1), session('x', { bytesIn: 'many' })] })
    const last = (await next).body
    assert.deepEqual([last.items.map(({ clientId }: Session) => clientId), last.unheard], [['cam-2'], []])
  })

  test('a broker that cannot be asked who is connected is named, with the reason', async () => {
    const unheard = async () => (await fleet.admin('GET', '/sessions')).body.unheard[0]
    const old = await askable([])
    assert.deepEqual(await unheard(), { broker: 'broker-1', why: 'not_asked' })
    assert.ok(!old.messages.some(({ kind }) => kind === 'ask'))
    await old[Symbol.asyncDispose]()
    const feed = await askable(['sessions'])
    const asking = unheard()
    await asked(feed, 1)
    feed.send({ kind: 'answer', id: 1, denials: [] })
    assert.deepEqual(await asking, { broker: 'broker-1', why: 'no_answer' })
    await feed[Symbol.asyncDispose]()
    let gone = await unheard()
    while (gone.why !== 'not_connected') gone = await unheard()
    for (const [query, status, code] of [
      ['broker=nobody', 404, 'not_found'],
      ['after=x', 400, 'request_malformed'],
      ['deviceId=a,b/c', 400, 'request_malformed'],
      ['limit=201', 400, 'request_malformed'],
    ] as const) {
      const { status: was, body } = await fleet.admin('GET', `/sessions?${query}`)
      assert.deepEqual([was, body.code], [status, code])
    }
  })

  test('brokers are asked what a certificate is worth; what is not in the agreed form is left out', async () => {
    await using feed = await askable(['verdicts'])
    const { certificate } = await fleet.enrolledDevice('worth-1')
    const asking = fleet.admin('POST', '/certificates/verify', { pem: certificate })
    assert.deepEqual(await asked(feed, 1), { verdicts: { certificates: [pemToDer(certificate).toString('base64')] } })
    const verdict: ListenerVerdict = { listener: 'main', state: 'valid', action: 'admit', isAdmitted: true, asks: [] }
    feed.send({ kind: 'answer', id: 1, verdicts: [verdict, { ...verdict, isAdmitted: 'yes' } as never] })
    const { brokers, unheard } = (await asking).body
    assert.deepEqual([brokers, unheard], [[{ ...verdict, broker: 'broker-1' }], []])
  })

  test('a session is ended by its broker, with an audit entry before and after; the same order is not given twice', async () => {
    const feed = await askable(['sessions', 'kick'])
    const kick = (clientId: string, key?: string) =>
      fleet.admin('POST', '/sessions/kick', { clientId }, key ? { 'Idempotency-Key': key } : {})
    const kicking = kick('cam-1:b', 'kick-cam-1-b')
    assert.deepEqual(await asked(feed, 1), { kick: { clientId: 'cam-1:b' } })
    const trail = async () =>
      (await fleet.admin('GET', '/audit?limit=50')).body.items
        .filter(({ action }: { action: string }) => action === 'session.kicked')
        .map(({ subject, outcome, details }: { subject: string; outcome: string; details: { sessions: string[] } }) =>
          [subject, outcome, details.sessions?.join()].filter(Boolean).join(' '),
        )
    assert.deepEqual(await trail(), ['device:cam-1 intended'])
    feed.send({ kind: 'answer', id: 1, kick: [session('cam-1:b')] })
    const done = await kicking
    assert.deepEqual([done.status, done.body.kicked[0].broker, done.body.unheard], [200, 'broker-1', []])
    assert.equal((await trail()).at(-1), 'device:cam-1 done broker-1 main 192.0.2.9')
    const again = await kick('cam-1:b', 'kick-cam-1-b')
    assert.deepEqual([again.status, again.body.code], [409, 'conflict'])

    const none = kick('cam-1')
    await asked(feed, 2)
    feed.send({ kind: 'answer', id: 2, kick: [] })
    assert.deepEqual([(await none).status, (await none).body.code], [404, 'not_found'])
    const lost = kick('cam-1')
    await asked(feed, 3)
    await feed[Symbol.asyncDispose]()
    assert.deepEqual([(await lost).status, (await lost).body.code], [503, 'unavailable'])
    assert.match((await lost).body.detail, /broker-1 did not/)
    assert.equal((await trail()).at(-1), 'device:cam-1 refused')
    assert.equal((await kick('cam/1')).body.code, 'request_malformed')
  })

  test('a device, an operator and a stranger cannot follow', async () => {
    const device = await fleet.enrolledDevice('spy-1')
    const { key, cert } = fleet.operator
    const wrong = 'certificate_wrong_usage'
    for (const [credential, code] of [
      [{ key: device.key, cert: device.certificate }, wrong],
      [{ key, cert }, wrong],
      [{}, 'certificate_missing'],
    ] as const) {
      await using feed = await followFeed(fleet, startCursor, credential)
      await feed.see(() => false)
      assert.deepEqual(feed.messages, [{ kind: 'refused', code }])
    }
  })

  test('strangers who hold connections open do not keep a broker out', async () => {
    const { host, port } = splitAddress(fleet.endpoints.feed)
    const strangers = Array.from({ length: 100 }, () => connect(port, host).on('error', () => {}))
    await Promise.all(strangers.map((socket) => once(socket, 'connect')))
    await using feed = await followFeed(fleet, startCursor)
    assert.ok(await feed.see(({ kind }) => kind === 'live'))
    for (const socket of strangers) socket.destroy()
  })

  test('a line that is not of the protocol ends the connection', async () => {
    for (const line of [
      'garbage\n',
      '{"kind":"report","id":"../x"}\n',
      '{"kind":"applied","seq":1}\n',
      `"${'x'.repeat(5_000_000)}`,
    ]) {
      await using feed = await followFeed(fleet, undefined)
      feed.socket.write(line)
      assert.equal(await feed.see(() => true), undefined)
    }
  })

  test('a line that is not of the protocol, behind a hello that is not answered yet, ends that connection and nothing else', async () => {
    const hello = encodeLine({ kind: 'hello', protocol: 1, broker: 'local', cursor: startCursor })
    for (const line of ['null', '{"kind":"other"}', '{"kind":"applied","seq":1000000}', '{"kind":"arrived"}']) {
      await using feed = await followFeed(fleet, undefined)
      feed.socket.write(`${hello}${line}\n`)
      assert.equal(await feed.see(() => false), undefined, line)
      assert.equal((await fleet.admin('GET', '/status')).status, 200)
    }
  })

  test('a broker that says it has what was not told yet is cut off: it would confirm what is still to come', async () => {
    await using feed = await followFeed(fleet, startCursor)
    const live = await feed.see(({ kind }) => kind === 'live')
    const seq = live?.kind === 'live' ? live.seq : 0
    feed.send({ kind: 'applied', seq })
    feed.send({ kind: 'applied', seq: seq + 1_000_000 })
    await feed.see(() => false)
    assert.ok(feed.socket.destroyed)
    // What it had said before is written when it has gone.
    let known = 0
    while (known < seq) known = (await fleet.admin('GET', '/status')).body.brokers[0].appliedSeq
    assert.equal(known, seq)
  })

  test('a report that is longer than any can be is not looked at, and does not come again', async () => {
    await using feed = await followFeed(fleet, startCursor)
    await feed.see(({ kind }) => kind === 'live')
    feed.send({
      kind: 'report',
      id: '0000-8001',
      report: { type: 'other', more: 'x'.repeat(maxReportLength) } as never,
    })
    await feed.see((message) => message.kind === 'noted' && message.id === '0000-8001')
  })

  test('a broker that has reported more than it may waits with the rest, over all its connections, and nothing is lost', async () => {
    const at = new Date().toISOString()
    const facts = { type: 'alert' as const, at, kind: 'stolen' as const, listener: 'mqtts', remoteAddress: '192.0.2.7' }
    const report = { ...facts, detail: 'held back', count: 1 }
    for (const connection of [1, 2]) {
      await using feed = await followFeed(fleet, startCursor)
      await feed.see(({ kind }) => kind === 'live')
      feed.send({ kind: 'report', id: '0000-9001', report })
      // A change that is asked for later, and a question after that, would find it noted.
      assert.equal((await fleet.admin('POST', '/devices', { id: `held-${connection}`, profile: 'camera' })).status, 201)
      feed.send({ kind: 'ping', id: 1 })
      await feed.see(({ kind }) => kind === 'pong')
      assert.ok(feed.messages.every(({ kind }) => kind !== 'noted'))
    }
    const { items } = (await fleet.admin('GET', '/audit?limit=1000')).body
    assert.ok(items.every(({ details }: { details?: { detail?: string } }) => details?.detail !== 'held back'))
  })

  test('a broker that reports more than it has heard to be noted is cut off', async () => {
    await using feed = await followFeed(fleet, startCursor)
    await feed.see(({ kind }) => kind === 'live')
    const report = { type: 'certificate.used' } as never
    feed.socket.cork()
    for (let at = 0; at < 101; at++) feed.send({ kind: 'report', id: `0000-3${at}`, report })
    feed.socket.uncork()
    await feed.see(() => false)
    assert.ok(feed.socket.destroyed)
  })

  test('a broker that cannot go on at its cursor is told what counts, and knows then what all events would have told it', async () => {
    await fleet.enrolledDevice('cam-held')
    await fleet.admin('POST', '/devices/cam-held/disable', {})
    await fleet.enrolledDevice('cam-back')
    await fleet.admin('POST', '/devices/cam-back/stolen', {})
    await fleet.admin('POST', '/devices/cam-back/readmit', { stolenRecovered: true })
    await fleet.enrolledDevice('cam-back')
    await fleet.admin('POST', '/devices/cam-back/revoke', { reason: 'keyCompromise' })
    const { document } = (await fleet.admin('GET', '/policy')).body
    await fleet.admin('PUT', '/policy', document)
    await using whole = await followFeed(fleet, startCursor)
    await whole.see(({ kind }) => kind === 'live')
    const { seq, hash } = whole.events.at(-1)!

    await fleet.close()
    {
      await using registry = new Registry(await openDatabase(join(fleet.dataDir, 'enroll', 'registry')))
      await shortenFeed(registry, { pastAll: seq, keepMs: 3_600_000, now: new Date(), keep: 3 })
    }
    await fleet.open()
    await using resumed = await followFeed(fleet, { seq, hash })
    assert.deepEqual((await resumed.see(() => true))?.kind, 'live')
    const { seq: tooOld, hash: then } = whole.events.at(-4)!
    await using bare = await followFeed(fleet, { seq: tooOld, hash: then })
    assert.equal(await bare.see(() => true), undefined, 'one that cannot read it is sent away')
    const expected = await knownFrom(whole.messages)
    for (const cursor of [startCursor, { seq: tooOld, hash: then }]) {
      await using told = await followFeed(fleet, cursor, undefined, { snapshots: true })
      const live = await told.see(({ kind }) => kind === 'live')
      assert.deepEqual(live, { kind: 'live', seq, notes: true, relays: true })
      assert.deepEqual(
        [told.messages[0]!.kind, told.messages.at(-2)],
        ['reset', { kind: 'snapshot', cursor: { seq, hash } }],
      )
      assert.deepEqual(await knownFrom(told.messages), expected)
      if (cursor.seq > 0) continue
      assert.deepEqual(expected.devices['cam-back']?.watchedKeys?.length, 1, 'of the theft, and not of what came later')
    }
    // In a time in which all that there is has ended: keys stay watched for ever.
    const late = { at: '9999-01-01T00:00:00Z', afterMs: 0 }
    await using brief = await followFeed(fleet, startCursor, undefined, { snapshots: true, forgets: late })
    await brief.see(({ kind }) => kind === 'live')
    const { devices, certificates } = await knownFrom(brief.messages)
    assert.deepEqual(devices, expected.devices)
    assert.deepEqual(certificates, expected.certificates, 'nothing has ended by the clock of enroll')
    await using told = await followFeed(fleet, startCursor, undefined, { snapshots: true })
    await told.see(({ kind }) => kind === 'live')
    await fleet.enrolledDevice('cam-behind')
    assert.equal((await told.until(seq + 1))[0]!.seq, seq + 1)
  })
})

/** What a broker makes of what it is told. */
async function knownFrom(messages: readonly FromEnroll[]) {
  const nowhere = { getMany: async () => [], page: async () => [], write: async () => {}, reopen: async () => {} }
  const snapshot = await Snapshot.load(nowhere, createLog('broker', 'silent'))
  snapshot.startOver()
  const facts = messages.flatMap((message): FeedFact[] => {
    if (message.kind === 'facts') snapshot.applyFacts(message.facts)
    if (message.kind === 'snapshot') snapshot.continueFrom(message.cursor)
    if (message.kind === 'event') snapshot.apply([message])
    return message.kind === 'facts' ? message.facts : message.kind === 'event' ? [decodeBody(message)] : []
  })
  await snapshot.reachedHead()
  const devices = facts.flatMap(({ type, data }) => (type === 'device.changed' ? [data.id] : []))
  const certificates = facts.flatMap(({ type, data }) => (type === 'certificate.issued' ? [data.fingerprint] : []))
  const { policy, anchors, cursor } = snapshot
  return {
    ...{ policy, anchors, cursor },
    devices: Object.fromEntries(devices.sort().map((id) => [id, snapshot.findDevice(id)])),
    certificates: Object.fromEntries(certificates.sort().map((one) => [one, snapshot.findCertificate(one)])),
  }
}

test('of a long feed no more is read for a broker that has left', async () => {
  let reads = 0
  const feedAfter = async (seq: number, limit: number) =>
    Array.from({ length: ++reads > 5 ? 0 : limit }, (_, at) => ({ seq: seq + at + 1, hash: 'h', body: '{}' }))
  const socket = Object.assign(new EventEmitter(), { destroyed: false, write: () => (socket.destroyed = true) })
  const follower = new Following('broker-1', socket as unknown as TLSSocket, { feedAfter } as unknown as Registry, {
    ...{ cursor: startCursor, state: undefined, knows: new Set<string>(), bounds: undefined },
    ...{ forks: { now: 0, followed: 0 }, relays: false, shown: undefined, now: new Date() },
  })
  await follower.pump()
  assert.equal(reads, 1)
})
