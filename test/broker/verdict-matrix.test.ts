/** Every state, action and mode over real sockets: CONNACK, log and denial tell one verdict. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import {
  handlingFault,
  handlingTable,
  parseHandling,
  type VerificationFault,
  verificationFaults,
} from '../../contract/verification.ts'
import { parsePem, toPem } from '../../pki/certificate.ts'
import { BrokerHarness, closeOf, type LogLine } from '../harness/broker.ts'
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
    broker: {
      listeners: listeners.map((one) => ({ ...one, listen: '127.0.0.1:0', trust: ['fleetgate', 'listed', 'pinned'] })),
      trust: [
        { label: 'listed', file: join(folder, 'listed.pem'), deviceId: 'subject.CN', crl: join(folder, 'list.pem') },
        { label: 'pinned', file: join(folder, 'pinned.pem'), deviceId: 'subject.CN', pins: 'required' },
      ],
    },
  })
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

for (const state of verificationFaults) {
  test(`${state}: CONNACK, log and denial say the same at every listener`, async () => {
    skewMs += 70_000 // so that the log tells every refusal
    const id = `matrix-${state.replaceAll('_', '-')}`
    const peer = await peers[state](id)
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
      if (action !== 'reject') continue
      const [denial] = await harness.feed.askDenials({ id: String(line.denial), limit: 1 })
      assert.deepEqual(
        [denial?.state, denial?.action, denial?.cause, denial?.listener],
        [state, action, line.reason, listener],
      )
      assert.equal(denial?.message, line.detail)
      if (isTold) assert.equal(connack!.sentence, `${denial?.message}; denial ${denial?.id}`)
    }
  })
}
