/** Every state, action and mode over real sockets: CONNACK, log, denial, metric, event, report and what is foretold tell one verdict. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import type { VerdictReached } from '../../contract/broker-reports.ts'
import type { ListenerVerdict } from '../../contract/certificate-verdicts.ts'
import {
  handlingFault,
  handlingTable,
  parseHandling,
  type VerificationFault,
  verificationFaults,
} from '../../contract/verification.ts'
import { parsePem, toPem } from '../../pki/certificate.ts'
import { FleetError } from '../../runtime/errors.ts'
import { BrokerHarness, closeOf, EventInbox, type LogLine, parsePolicy } from '../harness/broker.ts'
import { revocationList, type TestCertificate, TestPki } from '../harness/certificates.ts'

const hour = 3_600_000
const folder = mkdtempSync(join(tmpdir(), 'fleetgate-matrix-'))
const modes = ['enforce', 'permissive'] as const
const actions = ['reject', 'quarantine', 'log-only', 'grace(48h)'] as const
const listeners = modes.flatMap((mode) =>
  actions.map((action) => {
    const allowed = verificationFaults.filter((state) => handlingFault(state, parseHandling(action)!) === undefined)
    const handling = Object.fromEntries(allowed.map((state) => [state, action]))
    return { name: `${mode}-${action.slice(0, 5)}`, mode, handling }
  }),
)

let harness: BrokerHarness
let listed: TestPki
let pinned: TestPki
let events: EventInbox
let skewMs = 0
before(async () => {
  listed = await TestPki.create('Listed')
  pinned = await TestPki.create('Pinned')
  writeFileSync(join(folder, 'listed.pem'), listed.anchors.join(''))
  writeFileSync(join(folder, 'pinned.pem'), pinned.anchors.join(''))
  writeFileSync(
    join(folder, 'list.pem'),
    await revocationList(listed.issuing, { nextUpdate: new Date(Date.now() - hour) }),
  )
  harness = await BrokerHarness.start({
    clock: () => new Date(Date.now() + skewMs),
    policy: parsePolicy(`policies:
      - { name: teller, match: { profile: service }, allow: { subscribe: ["$fleetgate/events/#"] } }`),
    broker: {
      metrics: '127.0.0.1:0',
      listeners: listeners.map((one) => ({ ...one, listen: '127.0.0.1:0', trust: ['fleetgate', 'listed', 'pinned'] })),
      trust: [
        { label: 'listed', file: join(folder, 'listed.pem'), deviceId: 'subject.CN', crl: join(folder, 'list.pem') },
        { label: 'pinned', file: join(folder, 'pinned.pem'), deviceId: 'subject.CN', pins: 'required' },
      ],
    },
  })
  const teller = await harness.device('teller', { profile: 'service', notAfter: new Date(Date.now() + 9 * hour) })
  events = await EventInbox.open(await harness.connect(teller))
})
after(async () => {
  await harness[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true })
})

/** One octet of the signature is another. */
function forged({ pem, chain, ...rest }: TestCertificate): TestCertificate {
  const [der] = parsePem(pem, 'CERTIFICATE')
  der!.writeUInt8(der!.at(-1)! ^ 1, der!.length - 1)
  return { ...rest, pem: toPem(der!, 'CERTIFICATE'), chain: chain.replace(pem, toPem(der!, 'CERTIFICATE')) }
}

/** A peer of which verification finds this and nothing else. */
const peers: Record<VerificationFault, (id: string) => Promise<TestCertificate | undefined>> = {
  none: async () => undefined,
  self_signed: (id) => TestPki.selfSigned(id),
  bad_signature: async (id) => forged(await harness.pki.device(id)),
  unknown_ca: async (id) => (await TestPki.create('Foreign')).device(id),
  revoked: async (id) => {
    const device = await harness.device(id)
    await harness.revokeCertificate(device)
    return device
  },
  held: async (id) => {
    const device = await harness.device(id)
    const { serial, fingerprint } = device
    harness.feed.append({
      type: 'certificate.revoked',
      data: { serial, fingerprint, deviceId: id, reason: 'certificateHold' },
    })
    await harness.feed.untilApplied()
    return device
  },
  stale_status: async (id) => {
    await harness.device(id)
    return listed.device(id)
  },
  expired: (id) =>
    harness.device(id, { notBefore: new Date(Date.now() - 9 * hour), notAfter: new Date(Date.now() - hour) }),
  not_yet_valid: (id) => harness.device(id, { notBefore: new Date(Date.now() + 9 * hour) }),
  wrong_eku: (id) => harness.device(id, { usage: ['1.3.6.1.5.5.7.3.1'] }),
  not_registered: (id) => harness.strangeDevice(id),
  pin_mismatch: async (id) => {
    await harness.device(id)
    return pinned.device(id)
  },
  client_id_mismatch: (id) => harness.device(id),
}

const strangers: ReadonlySet<VerificationFault> = new Set(['none', 'self_signed', 'bad_signature', 'unknown_ca'])
const eventOf = {
  reject: 'connection.refused',
  quarantine: 'quarantine.entered',
  'log-only': 'session.opened',
  grace: 'session.opened',
}

/** What a version 5 client is answered: undefined when it is closed without a word. */
async function answer(listener: string, peer: TestCertificate | undefined, clientId: string) {
  const client = harness.dialUrl(harness.broker.endpoints[listener]!, peer, { clientId, protocolVersion: 5 })
  const closed = closeOf(client)
  const connack = await new Promise<{ code: number; sentence: string } | undefined>((resolve) => {
    client.once('packetreceive', (packet) => {
      if (packet.cmd !== 'connack') return resolve(undefined)
      return resolve({ code: packet.reasonCode ?? 0, sentence: packet.properties?.reasonString ?? '' })
    })
    void closed.then(() => resolve(undefined))
  })
  client.end(true)
  await closed
  return connack
}

/** Of one scrape: a number by its name and labels. */
async function scrape(): Promise<(name: string, labels: Record<string, string>) => number> {
  const text = await (await fetch(`${harness.broker.probes}/metrics`)).text()
  return (name, labels) => {
    const written = Object.entries(labels).map(([label, value]) => `${label}="${value}"`)
    const line = text.split('\n').find((one) => one.startsWith(`${name}{${written.join(',')}} `))
    return Number(line?.split(' ').at(-1) ?? 0)
  }
}

/** What listeners would do, asked before the certificate was shown to any. */
function foretell({ chain }: TestCertificate): Promise<ListenerVerdict[]> {
  const certificates = parsePem(chain, 'CERTIFICATE').map((der) => der.toString('base64'))
  return harness.feed.ask('verdicts', { certificates })
}

for (const state of verificationFaults) {
  test(`${state}: CONNACK, log, denial, metric, event, report and what was foretold say the same at every listener`, async () => {
    skewMs += 70_000 // so that the log tells every refusal
    const id = `matrix-${state.replaceAll('_', '-')}`
    const peer = await peers[state](id)
    const before = await scrape()
    const foretold = peer === undefined ? [] : await foretell(peer)
    const refused = new Map<string, { stage: string; cause: string; count: number }>()
    for (const { name: listener, mode, handling } of listeners) {
      const { action } = handlingTable(mode, handling)[state]
      const from = harness.testLog.lines.length
      const connack = await answer(listener, peer, state === 'client_id_mismatch' ? 'other' : id)
      const isTold = action !== 'reject' || !strangers.has(state)
      assert.equal(connack !== undefined, isTold, `${listener}: a CONNACK`)
      if (isTold) assert.equal(connack!.code >= 0x80, action === 'reject', `${listener}: ${connack!.code}`)
      const line: LogLine = await harness.testLog.until(eventOf[action], { listener, verification: state })
      assert.ok(harness.testLog.lines.indexOf(line) >= from, `${listener}: a line of its own`)
      assert.equal(line.action, action, listener)
      const one = foretold.find((verdict) => verdict.listener === listener)
      // What is wrong with it is that of the connection, not of the certificate.
      if (state === 'client_id_mismatch') assert.equal(one?.action, 'admit', `${listener}: foretold`)
      else if (peer !== undefined) {
        const isAdmitted = action === 'log-only' || action === 'grace'
        assert.deepEqual(
          [one?.state, one?.action, one?.isAdmitted],
          [state, action, isAdmitted],
          `${listener}: foretold`,
        )
        if (action === 'reject') assert.deepEqual([one?.code, one?.message], [line.reason, line.detail], listener)
        assert.ok(one?.fix, `${listener}: what would change it`)
      }
      if (!strangers.has(state)) {
        const isOfThis = (report: VerdictReached): boolean =>
          report.listener === listener && report.verification === state
        const report = await harness.feed.untilReport('verdict', isOfThis)
        assert.equal(report.action, action, `${listener}: a report`)
        if (action === 'reject') {
          assert.deepEqual([report.reason, report.detail, report.denial], [line.reason, line.detail, line.denial])
        }
      }
      const told = { listener, state, action: String(line.action) }
      if (action === 'log-only' || action === 'grace') await events.until('connected', told)
      if (action !== 'reject') continue
      const [denial] = await harness.feed.askDenials({ id: String(line.denial), limit: 1 })
      assert.deepEqual(
        [denial?.state, denial?.action, denial?.cause, denial?.listener],
        [state, action, line.reason, listener],
      )
      assert.equal(denial?.message, line.detail)
      if (isTold) assert.equal(connack!.sentence, `${denial?.message}; denial ${denial?.id}`)
      const event = await events.until('refused', told)
      assert.deepEqual(
        [event.denial, event.reason, event.message, event.stage],
        [denial?.id, denial?.cause, denial?.message, denial?.stage],
      )
      const { stage, cause } = denial!
      const { count } = refused.get(`${stage} ${cause}`) ?? { count: 0 }
      refused.set(`${stage} ${cause}`, { stage, cause, count: count + 1 })
    }
    const after = await scrape()
    for (const { name: listener, mode, handling } of listeners) {
      const { action } = handlingTable(mode, handling)[state]
      const labels = { listener, verification: state, action }
      assert.equal(after('fleetgate_broker_handshakes_total', labels), 1, `${listener}: a metric`)
    }
    for (const { count, ...labels } of refused.values()) {
      const name = 'fleetgate_broker_refusals_total'
      assert.equal(after(name, labels) - before(name, labels), count, `${labels.stage} ${labels.cause}`)
    }
  })
}

test('a listener that is given another mode while it serves takes strangers into quarantine, and ends them when it is taken back', async () => {
  const name = 'enforce-grace'
  const rows = (mode: 'enforce' | 'permissive') =>
    listeners.map((one) => ({
      ...one,
      ...{ listen: '127.0.0.1:0', trust: ['fleetgate', 'listed', 'pinned'] },
      ...(one.name === name ? { mode } : {}),
    }))
  const stranger = await TestPki.selfSigned('mode-1')
  const changed = [`broker.listeners.${name}.mode`]
  assert.equal(await answer(name, stranger, 'mode-1'), undefined)
  assert.deepEqual(harness.reconfigure({ listeners: rows('permissive') }), { changed, waitsForRestart: [] })
  const client = harness.dialUrl(harness.broker.endpoints[name]!, stranger, { clientId: 'mode-1', protocolVersion: 5 })
  const closed = closeOf(client)
  await new Promise((resolve) => client.once('connect', resolve))
  assert.deepEqual(harness.reconfigure({ listeners: rows('enforce') }).changed, changed)
  await closed
  assert.equal(await answer(name, stranger, 'mode-1'), undefined)
})

test('limits are others while the broker serves, also for who is connected; what waits for a restart is named, and a fault changes nothing', async () => {
  const device = await harness.device('limited', { notAfter: new Date(Date.now() + 9 * hour) })
  await harness.connect(device)
  const second = () => harness.refusal(device, { clientId: 'limited:b' })
  const { reconfigure } = harness.broker
  assert.deepEqual(harness.reconfigure({ maxConnectionsPerDevice: 1, id: 'other' }), {
    changed: ['broker.maxConnectionsPerDevice'],
    waitsForRestart: ['broker.id'],
  })
  assert.equal(typeof (await second()), 'number')
  const refused = reconfigure(() => {
    throw new FleetError('config_invalid', 'line 3')
  })
  assert.deepEqual(refused, { refused: 'line 3', changed: [], waitsForRestart: [] })
  assert.equal(typeof (await second()), 'number')
  assert.deepEqual(harness.reconfigure({}).changed, ['broker.maxConnectionsPerDevice'])
  assert.equal(await second(), 0)
  assert.deepEqual(await harness.feed.ask('reload', {}), [], 'this one was started without a file to read')
})

test('what devices publish is recorded nowhere: log, denials, events, metrics and reports have topics and sizes alone', async () => {
  const id = 'discreet'
  const secret = 'pajl0ad-that-nobody-keeps'
  harness.setPolicy(
    parsePolicy(`policies:
      - { name: teller, match: { profile: service }, allow: { subscribe: ["$fleetgate/events/#"] } }
      - { name: own, allow: { publish: ["devices/\${device.id}/#"], subscribe: ["devices/\${device.id}/#"] }, limits: { payloadBytes: 100 } }`),
  )
  const device = await harness.device(id, { notAfter: new Date(Date.now() + 9 * hour) })
  const will = { topic: `devices/${id}/will`, payload: Buffer.from(secret), qos: 1, retain: true } as const
  const client = await harness.connect(device, { protocolVersion: 5, will })
  await client.subscribeAsync(`devices/${id}/#`)
  const properties = { correlationData: Buffer.from(secret), userProperties: { note: secret } }
  const publish = (topic: string, payload: string) =>
    client.publishAsync(topic, payload, { qos: 1, retain: true, properties }).catch(() => undefined)
  await publish(`devices/${id}/state`, secret)
  await publish(`devices/${id}/large`, secret.repeat(9))
  await publish('devices/other/state', secret)
  const closed = closeOf(client)
  await harness.revokeDevice(device)
  await closed
  await harness.feed.untilReport('session.cut', ({ deviceId }) => deviceId === id)
  const refused = await harness.feed.askDenials({ deviceId: id, limit: 50 })
  assert.deepEqual(
    new Set(refused.map(({ cause }) => cause)),
    new Set(['payload_too_large', 'publish_denied', 'device_revoked']),
  )
  const recorded: Record<string, unknown> = {
    log: harness.testLog.lines,
    denials: refused,
    reports: [...harness.feed.reports.values()],
    events: events.events,
    metrics: await (await fetch(`${harness.broker.probes}/metrics`)).text(),
  }
  for (const [where, what] of Object.entries(recorded)) {
    const text = JSON.stringify(what)
    assert.ok(text.length > 2, where)
    for (const form of ['utf8', 'base64', 'hex'] as const)
      assert.ok(!text.includes(Buffer.from(secret).toString(form).replace(/=+$/, '')), `${where}: ${form}`)
  }
  assert.ok(JSON.stringify(recorded.log).includes('devices/other/state'), 'the log has what was denied')
})

test('certificates that no trusted CA has issued are not reported: anybody can make as many as he likes', () => {
  const reported = [...harness.feed.reports.values()].flatMap(({ report }) =>
    report.type === 'verdict' ? [report] : [],
  )
  assert.ok(reported.length > 0)
  for (const { verification } of reported) assert.ok(!strangers.has(verification as VerificationFault), verification)
})

test('a CA whose certificates are pinned lets in the very one that was registered for the device', async () => {
  const id = 'pinned-1'
  const [one, other] = [await pinned.device(id), await pinned.device(id)]
  harness.feed.append({ type: 'device.changed', data: { id, profile: 'sensor', groups: [], status: 'active' } })
  await harness.feed.untilApplied()
  const codeOf = async (peer: TestCertificate): Promise<number | undefined> =>
    (await answer('enforce-rejec', peer, id))?.code
  assert.equal(await codeOf(one), 0x87)
  // As enroll tells of one that `cert register` has noted.
  harness.feed.append(harness.issuedFact({ ...one, id, serial: `f0${one.fingerprint.slice(0, 38)}` }))
  await harness.feed.untilApplied()
  assert.deepEqual([await codeOf(one), await codeOf(other)], [0, 0x87])
})

test('what went over a connection is counted while it is open and after it, and a broker that serves is ready', async () => {
  const device = await harness.device('counted', { notAfter: new Date(Date.now() + 9 * hour) })
  const client = await harness.connect(device)
  await client.subscribeAsync('x').catch(() => {})
  const names = ['packets_received_total', 'packets_sent_total', 'received_bytes_total', 'sent_bytes_total']
  const text = async (): Promise<string> => (await fetch(`${harness.broker.probes}/metrics`)).text()
  const traffic = async (): Promise<number[]> => {
    const said = await text()
    assert.match(said, /^fleetgate_broker_feed_connected 1$/m)
    assert.doesNotMatch(said, /counted|127\.0\.0\.1|matrix-/, 'no device, no address, no topic')
    return names.map((name) => Number(new RegExp(`^fleetgate_broker_${name} (\\d+)$`, 'm').exec(said)?.[1]))
  }
  const read = await scrape()
  assert.ok(read('fleetgate_broker_connections', { listener: 'mqtts', state: 'live' }) >= 1)
  const messages = async (): Promise<number> =>
    Number(/^fleetgate_broker_messages_received_total (\d+)$/m.exec(await text())?.[1])
  const before = await messages()
  await client.publishAsync('x', '', { qos: 1 })
  assert.equal(await messages(), before + 1, 'also one that is refused')
  const open = await traffic()
  assert.ok(open.every((count) => count > 1))
  await client.endAsync()
  await harness.testLog.until('session.closed', { clientId: 'counted' })
  const closed = await traffic()
  for (const [at, count] of closed.entries()) assert.ok(count >= open[at]!, names[at])
  assert.ok(closed[0]! > open[0]!, 'with the DISCONNECT')
  const ready = await fetch(`${harness.broker.probes}/readyz`)
  assert.deepEqual([ready.status, await ready.text()], [200, 'feed: ok\ncertificate: ok\nstore: ok\n'])
})

test('every line of the log that tells of a connection has its id, which no other connection has', async () => {
  const { lines } = harness.testLog
  const first = lines.length
  const device = await harness.device('told', { notAfter: new Date(Date.now() + 9 * hour) })
  const client = await harness.connect(device)
  await client.publishAsync('x', '', { qos: 1 })
  await client.endAsync()
  await harness.testLog.until('session.closed', { clientId: 'told' })
  const own = lines.slice(first).filter(({ clientId }) => clientId === 'told')
  const events = own.map(({ event }) => event)
  assert.deepEqual(events, ['session.opened', 'publish.denied', 'session.closed'])
  assert.equal(new Set(own.map(({ connectionId }) => connectionId)).size, 1)
  assert.match(String(own[0]!.connectionId), /^[0-9a-f]{16}$/)
  const refused = lines.filter(({ event, reason }) => event === 'connection.refused' && reason !== 'handshake_failed')
  assert.ok(refused.length > 1)
  const all = [...refused, own[0]!].map(({ connectionId }) => connectionId)
  assert.ok(all.every((id) => typeof id === 'string'))
  assert.equal(new Set(all).size, all.length)
})
