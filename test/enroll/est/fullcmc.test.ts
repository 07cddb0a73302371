import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, before, suite, test } from 'node:test'
import { connect } from 'node:tls'
import { parseCertificate } from '../../../pki/certificate.ts'
import { parseCertsOnly } from '../../../pki/cms.ts'
import { type DerReader, octetString, readDer, tags } from '../../../pki/der.ts'
import { oids } from '../../../pki/oids.ts'
import { createKeyAndCsr } from '../../../pki/x509.ts'
import { type CmcParts, cmcOids, cmcRequest } from '../../harness/cmc.ts'
import { badlySigned } from '../../harness/csr-vectors.ts'
import { readSigned } from '../../harness/envelope.ts'
import {
  type Answer,
  basic,
  codeOf,
  type DeviceKeys,
  EnrollHarness,
  requireWindow,
  testConfiguration,
} from '../../harness/fleet.ts'

const requestType = 'application/pkcs7-mime; smime-type=CMC-request'
const responseType = 'application/pkcs7-mime; smime-type=CMC-response'

suite('fullcmc (RFC 7030 4.3)', () => {
  let fleet: EnrollHarness
  before(async () => {
    fleet = await EnrollHarness.start({ config: testConfiguration({ enroll: { attemptsPerMinute: 1000 } }) })
  })
  after(() => fleet[Symbol.asyncDispose]())

  const withToken = (id: string, token: string, der: Buffer, type = requestType): Promise<Answer> =>
    fleet.est('fullcmc', {
      method: 'POST',
      headers: { 'Content-Type': type, Authorization: basic(id, token) },
      body: der.toString('base64'),
    })
  const asDevice = ({ key, certificate }: DeviceKeys, der: Buffer): Promise<Answer> =>
    fleet.est('fullcmc', {
      method: 'POST',
      headers: { 'Content-Type': requestType },
      body: der.toString('base64'),
      key,
      cert: certificate,
    })

  /** The controls of a Full PKI Response, and the certificates beside it. */
  async function readResponse(answer: Answer): Promise<Map<string, DerReader>> {
    const { 'content-type': type, 'content-transfer-encoding': encoding } = answer.headers
    assert.deepEqual([type, encoding], [responseType, 'base64'])
    const info = readDer(Buffer.from(answer.body, 'base64'), 65_536).enter()
    assert.equal(info.oid(), oids.signedData)
    const signed = info.enter(0xa0).next().der
    const { type: signedType, content } = await readSigned(signed, fleet.root)
    assert.equal(signedType, oids.pkiResponse)
    const controls = new Map<string, DerReader>()
    const list = readDer(content, 65_536).enter().enter()
    while (!list.done) {
      const control = list.enter()
      control.next(tags.integer)
      controls.set(control.oid(), control.enter(tags.set))
    }
    return controls
  }

  async function readRefusal(
    answer: Answer,
  ): Promise<{ status: number; part: number; sentence: string; failInfo: number }> {
    const info = (await readResponse(answer)).get(cmcOids.statusInfoV2)!.enter()
    assert.equal(info.smallInteger(), 2)
    const part = info.enter().smallInteger()
    const sentence = info.next(tags.utf8String).content.toString()
    return { status: answer.status, part, sentence, failInfo: info.smallInteger() }
  }

  async function firstRequest(id: string, change: Partial<CmcParts> = {}): Promise<Buffer> {
    const { privateKeyPem, csrDer } = await createKeyAndCsr({ commonName: id })
    return cmcRequest({ csrDer, key: privateKeyPem, ...change })
  }

  test('with a token and signed by its own key, a request without controls gets a Simple PKI Response', async () => {
    const answer = await withToken('cam-1', await fleet.token('cam-1'), await firstRequest('cam-1'))
    assert.equal(answer.status, 200, answer.body)
    assert.equal(answer.headers['content-type'], 'application/pkcs7-mime; smime-type=certs-only')
    const [leaf, ...rest] = parseCertsOnly(Buffer.from(answer.body, 'base64')).map(parseCertificate)
    assert.deepEqual([leaf!.subjectAltName.uris, rest], [['urn:fleetgate:device:cam-1'], []])
    requireWindow(answer.headers, leaf!)
  })

  test('signed by the current certificate it renews, and controls are answered in a Full PKI Response', async () => {
    const device = await fleet.enrolledDevice('cam-2')
    const der = cmcRequest({
      csrDer: await fleet.renewalCsr(device),
      key: device.key,
      certificate: device.certificate,
      controls: [
        [cmcOids.transactionId, Buffer.of(2, 1, 42)],
        [cmcOids.senderNonce, octetString(Buffer.from('nonce of the client'))],
      ],
    })
    const answer = await asDevice(device, der)
    assert.equal(answer.status, 200)
    const controls = await readResponse(answer)
    const status = controls.get(cmcOids.statusInfoV2)!.enter()
    assert.deepEqual([status.smallInteger(), status.enter().smallInteger()], [0, 1])
    assert.equal(controls.get(cmcOids.transactionId)!.smallInteger(), 42)
    assert.equal(controls.get(cmcOids.recipientNonce)!.octetString().toString(), 'nonce of the client')
    assert.equal(controls.get(cmcOids.senderNonce)!.octetString().length, 16)
    const { body } = await fleet.admin('GET', '/devices/cam-2')
    assert.notEqual(body.currentSerial, device.serial)
    assert.ok(Buffer.from(answer.body, 'base64').includes(Buffer.from(body.currentSerial, 'hex')))
  })

  test('a refusal is a Full PKI Response with the status of the refusal, and in the audit log (RFC 7030 4.3.2)', async () => {
    const token = await fleet.token('cam-3')
    const wrongName = await readRefusal(await withToken('cam-3', token, await firstRequest('cam-4', { bodyPartId: 7 })))
    assert.deepEqual([wrongName.status, wrongName.part, wrongName.failInfo], [403, 7, 7])
    assert.match(wrongName.sentence, /^csr_subject_mismatch: .*CN=cam-3 \(request [0-9a-f]{16}, denial [0-9a-f]{12}\)$/)
    const { body } = await fleet.admin('GET', '/audit?limit=1')
    assert.equal(body.items[0].reason, 'csr_subject_mismatch')
    const wrongToken = await withToken('cam-3', 'x', await firstRequest('cam-3'))
    assert.match(String(wrongToken.headers['www-authenticate']), /^Basic /)
    const { status, failInfo, sentence } = await readRefusal(wrongToken)
    assert.deepEqual([status, failInfo, sentence.split(':')[0]], [401, 13, 'token_invalid'])
  })

  test('the signature has to be of who sends it, over what is sent', async () => {
    const token = await fleet.token('cam-5')
    const { privateKeyPem: stranger } = await createKeyAndCsr({ commonName: 'x' })
    const bad = [
      await firstRequest('cam-5', { key: stranger }),
      await firstRequest('cam-5', { digest: Buffer.alloc(32) }),
    ]
    for (const der of bad) {
      const { status, failInfo, sentence } = await readRefusal(await withToken('cam-5', token, der))
      assert.deepEqual([status, failInfo, sentence.split(':')[0]], [400, 1, 'cmc_signature_invalid'])
    }
    const [device, other] = [await fleet.enrolledDevice('cam-6'), await fleet.enrolledDevice('cam-7')]
    const csrDer = await fleet.renewalCsr(device)
    for (const signer of [other, { key: other.key, certificate: device.certificate }]) {
      const der = cmcRequest({ csrDer, key: signer.key, certificate: signer.certificate })
      const { status, sentence } = await readRefusal(await asDevice(device, der))
      assert.deepEqual([status, sentence.split(':')[0]], [400, 'cmc_signature_invalid'])
    }
  })

  test('the certificate that TLS shows and that signs answers says that it may speak for the CA (RFC 6402 2.10)', async () => {
    const { hostname, port } = new URL(fleet.endpoints.est)
    const socket = connect({ host: hostname, port: Number(port), ca: fleet.root })
    await once(socket, 'secureConnect')
    const { extendedKeyUsage } = parseCertificate(socket.getPeerX509Certificate()!.raw)
    socket.destroy()
    assert.deepEqual(extendedKeyUsage, ['serverAuth', 'cmcRA'])
  })

  test('what is not one PKCS#10 in PKIData, or has a control that is not offered, is refused', async () => {
    const token = await fleet.token('cam-8')
    const { csrDer } = await createKeyAndCsr({ commonName: 'cam-8' })
    const bad: [Buffer, string, number][] = [
      [csrDer, 'cmc_malformed', 2],
      [Buffer.from('garbage'), 'cmc_malformed', 2],
      [await firstRequest('cam-8', { requests: [csrDer] }), 'cmc_malformed', 2],
      [await firstRequest('cam-8', { contentType: oids.data }), 'cmc_malformed', 2],
      [
        await firstRequest('cam-8', { controls: [[cmcOids.identityProof, octetString(Buffer.of(1))]] }),
        'cmc_malformed',
        2,
      ],
      [await firstRequest('cam-8', { csrDer: badlySigned(csrDer) }), 'csr_signature_invalid', 9],
    ]
    for (const [der, code, failInfo] of bad) {
      const refusal = await readRefusal(await withToken('cam-8', token, der))
      assert.deepEqual([refusal.status, refusal.failInfo, refusal.sentence.split(':')[0]], [400, failInfo, code])
    }
    const simple = await withToken('cam-8', token, csrDer, 'application/pkcs10')
    assert.deepEqual([simple.status, codeOf(simple)], [415, 'media_type_unsupported'])
    const other = await withToken('cam-8', token, csrDer, 'application/pkcs7-mime; smime-type=certs-only')
    assert.equal((await readRefusal(other)).status, 415)
  })
})
