import assert from 'node:assert/strict'
import { createPrivateKey, createPublicKey, type KeyObject } from 'node:crypto'
import { after, before, suite, test } from 'node:test'
import { parseCertificate } from '../../../pki/certificate.ts'
import { parseCertsOnly } from '../../../pki/cms.ts'
import { oids } from '../../../pki/oids.ts'
import { createKeyAndCsr } from '../../../pki/x509.ts'
import { badlySigned, csrWithAttributes, keyEncryption } from '../../harness/csr-vectors.ts'
import { keyOfPackage, openEnvelope, readSigned } from '../../harness/envelope.ts'
import {
  type Answer,
  basic,
  codeOf,
  type DeviceKeys,
  EnrollHarness,
  pemToDer,
  requireWindow,
  testConfiguration,
} from '../../harness/fleet.ts'

type Part = { type: string; head: string; der: Buffer }

function partsOf({ headers, body }: Answer): Part[] {
  const boundary = /^multipart\/mixed; boundary=([a-z0-9-]+)$/.exec(String(headers['content-type']))![1]!
  const pieces = body.split(`--${boundary}`)
  assert.deepEqual([pieces[0], pieces.at(-1)], ['', '--\r\n'])
  return pieces.slice(1, -1).map((piece) => {
    const [head = '', text = ''] = piece.split('\r\n\r\n')
    return { type: /Content-Type: (.*)/.exec(head)![1]!, head, der: Buffer.from(text, 'base64') }
  })
}

const spkiOf = (key: KeyObject): Buffer => createPublicKey(key).export({ format: 'der', type: 'spki' })

suite('serverkeygen (RFC 7030 4.4)', () => {
  let fleet: EnrollHarness
  before(async () => {
    fleet = await EnrollHarness.start({
      config: testConfiguration({
        profiles: {
          camera: {},
          meter: { serverKeygen: 'clear', keyTypes: ['P-256', 'RSA', 'P-384', 'Ed25519'] },
          lock: { serverKeygen: 'encrypted' },
        },
        enroll: { attemptsPerMinute: 1000, renewalsPerHour: 20 },
      }),
    })
  })
  after(() => fleet[Symbol.asyncDispose]())

  const post = (csr: Buffer, authorization: string): Promise<Answer> =>
    fleet.est('serverkeygen', {
      method: 'POST',
      headers: { 'Content-Type': 'application/pkcs10', Authorization: authorization },
      body: csr.toString('base64'),
    })
  const postAs = ({ key, certificate }: DeviceKeys, csr: Buffer): Promise<Answer> =>
    fleet.est('serverkeygen', {
      method: 'POST',
      headers: { 'Content-Type': 'application/pkcs10' },
      body: csr.toString('base64'),
      key,
      cert: certificate,
    })
  const firstKey = async (id: string, profile: string, csr: Buffer): Promise<Answer> =>
    post(csr, basic(id, await fleet.token(id, { profile })))
  const keyIdOf = ({ certificate }: DeviceKeys): Buffer =>
    Buffer.from(parseCertificate(pemToDer(certificate)).subjectKeyId!, 'hex')

  test('where the profile allows it, key and certificate come in clear inside TLS, and belong together', async () => {
    const { csrDer } = await createKeyAndCsr({ commonName: 'meter-1' })
    const answer = await firstKey('meter-1', 'meter', csrDer)
    assert.equal(answer.status, 200)
    const [key, certificate] = partsOf(answer)
    assert.deepEqual(
      [key!.type, certificate!.type],
      ['application/pkcs8', 'application/pkcs7-mime; smime-type=certs-only'],
    )
    for (const { head } of [key!, certificate!]) assert.match(head, /\r\nContent-Transfer-Encoding: base64$/)
    const made = createPrivateKey({ key: key!.der, format: 'der', type: 'pkcs8' })
    const leaf = parseCertificate(parseCertsOnly(certificate!.der)[0]!)
    assert.deepEqual(spkiOf(made), leaf.publicKeySpki)
    assert.deepEqual(leaf.keyUsage, ['digitalSignature', 'keyAgreement'])
    requireWindow(answer.headers, leaf)
  })

  test('the key in the request only says which type is wished; its value and the signature are ignored', async () => {
    const wishes = { RSA: 'RSA-2048', 'P-384': 'P-384', Ed25519: 'Ed25519' } as const
    for (const [type, keyType] of Object.entries(wishes)) {
      const { csrDer } = await createKeyAndCsr({ commonName: `meter-${type}`, keyType })
      const [, certificate] = partsOf(await firstKey(`meter-${type}`, 'meter', badlySigned(csrDer)))
      const made = createPublicKey({
        key: parseCertificate(parseCertsOnly(certificate!.der)[0]!).publicKeySpki,
        format: 'der',
        type: 'spki',
      })
      const wished = { RSA: 'rsa', 'P-384': 'ec', Ed25519: 'ed25519' }[type]
      assert.equal(made.asymmetricKeyType, wished)
    }
  })

  test('a key encrypted for the current one comes signed by this service and enveloped (RFC 7030 4.4.2)', async () => {
    for (const keyType of ['P-256', 'RSA-2048'] as const) {
      const device = await fleet.enrolledDevice(`lock-${keyType}`, { profile: 'lock', keyType })
      const wish = keyEncryption(keyIdOf(device), [oids.aes128Cbc])
      const answer = await postAs(device, csrWithAttributes(device.id, ...wish))
      assert.equal(answer.status, 200, answer.body)
      const [key, certificate] = partsOf(answer)
      assert.equal(key!.type, 'application/pkcs7-mime; smime-type=server-generated-key')
      const signed = await readSigned(await openEnvelope(key!.der, device.key), fleet.root)
      assert.equal(signed.type, oids.asymmetricKeyPackage)
      const leaf = parseCertificate(parseCertsOnly(certificate!.der)[0]!)
      assert.deepEqual(spkiOf(keyOfPackage(signed.content)), leaf.publicKeySpki)
    }
  })

  test('with a token the key of the newest certificate of the device may be named', async () => {
    const device = await fleet.enrolledDevice('lock-3', { profile: 'lock' })
    const answer = await firstKey('lock-3', 'lock', csrWithAttributes('lock-3', ...keyEncryption(keyIdOf(device))))
    assert.equal(answer.status, 200, answer.body)
    const revoked = await fleet.enrolledDevice('lock-4', { profile: 'lock' })
    const other = csrWithAttributes('lock-3', ...keyEncryption(keyIdOf(revoked)))
    const refused = await firstKey('lock-3', 'lock', other)
    assert.deepEqual([refused.status, codeOf(refused)], [400, 'key_encryption_unavailable'])
  })

  test('a key that cannot be encrypted as asked is not sent in clear instead, and the token stays unspent', async () => {
    const token = await fleet.token('meter-2', { profile: 'meter' })
    const keyId = Buffer.alloc(20, 7)
    for (const wish of [keyEncryption(keyId), keyEncryption(keyId, [], oids.decryptKeyId)]) {
      const refused = await post(csrWithAttributes('meter-2', ...wish), basic('meter-2', token))
      assert.deepEqual([refused.status, codeOf(refused)], [400, 'key_encryption_unavailable'])
    }
    assert.equal((await post(csrWithAttributes('meter-2'), basic('meter-2', token))).status, 200)
  })

  test('a profile that wants keys encrypted refuses to send one in clear, and one that has none made refuses at all', async () => {
    const clear = await firstKey('lock-5', 'lock', csrWithAttributes('lock-5'))
    assert.deepEqual([clear.status, codeOf(clear)], [403, 'key_encryption_required'])
    const off = await firstKey('cam-1', 'camera', csrWithAttributes('cam-1'))
    assert.deepEqual([off.status, codeOf(off)], [403, 'keygen_disabled'])
  })

  test('names are those of any enrollment, and nobody gets a key without a credential', async () => {
    const other = await firstKey('meter-3', 'meter', csrWithAttributes('meter-4'))
    assert.deepEqual([other.status, codeOf(other)], [403, 'csr_subject_mismatch'])
    const nobody = await fleet.est('serverkeygen', {
      method: 'POST',
      headers: { 'Content-Type': 'application/pkcs10' },
      body: csrWithAttributes('meter-3').toString('base64'),
    })
    assert.deepEqual([nobody.status, codeOf(nobody)], [401, 'unauthenticated'])
  })

  test('a token is spent by it: what was lost on its way is not given again, since nobody kept it', async () => {
    const token = await fleet.token('meter-5', { profile: 'meter' })
    assert.equal((await post(csrWithAttributes('meter-5'), basic('meter-5', token))).status, 200)
    const again = await post(csrWithAttributes('meter-5'), basic('meter-5', token))
    assert.deepEqual([again.status, codeOf(again)], [403, 'token_spent'])
  })

  test('making keys is bounded for one device', async () => {
    const authorization = basic('meter-6', await fleet.token('meter-6', { profile: 'meter' }))
    for (let i = 0; i < 20; i++) await post(csrWithAttributes('nobody'), authorization)
    const refused = await post(csrWithAttributes('meter-6'), authorization)
    assert.deepEqual([refused.status, codeOf(refused)], [429, 'too_many_requests'])
  })
})
