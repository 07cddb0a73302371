import 'reflect-metadata'
import assert from 'node:assert/strict'
import { createPublicKey, type KeyObject } from 'node:crypto'
import { before, test } from 'node:test'
import { Extension } from '@peculiar/x509'
import { parsePem } from '../../pki/certificate.ts'
import { encodeEntry, signList } from '../../pki/crl.ts'
import { importPublicKey } from '../../pki/public-key.ts'
import { describeRevocationList, isSignedBy, readRevocationList } from '../../pki/revocation-list.ts'
import { revocationList, TestPki } from '../harness/certificates.ts'
import { after, day, issuingIssuer, now } from './hierarchy.ts'

let pki: TestPki
let key: KeyObject
before(async () => {
  pki = await TestPki.create()
  key = createPublicKey(pki.issuing.pem)
})

const derOf = async (more: Parameters<typeof revocationList>[1] = {}): Promise<Buffer> =>
  parsePem(await revocationList(pki.issuing, more), 'X509 CRL')[0]!

test('a list tells who is revoked, for what, and until when it holds', async () => {
  const nextUpdate = new Date('2031-05-06T07:08:09Z')
  const list = readRevocationList(await derOf({ serials: ['0a01'], held: ['00ff'], nextUpdate }), [key])
  assert.deepEqual(
    [...list.revoked],
    [
      ['0a01', 'keyCompromise'],
      ['ff', 'certificateHold'],
    ],
  )
  assert.deepEqual(list.nextUpdate, nextUpdate)
  assert.ok(list.thisUpdate < new Date())
})

test('a list without entries is one', async () => {
  assert.equal(readRevocationList(await derOf(), [key]).revoked.size, 0)
})

test('a list that another key signed, or that was changed, is not believed', async () => {
  const der = await derOf({ serials: ['0a01'] })
  const refused = { code: 'data_damaged', message: /not signed by its CA/ }
  assert.throws(() => readRevocationList(der, [createPublicKey(pki.root.pem)]), refused)
  assert.throws(() => readRevocationList(der, []), refused)
  const changed = Buffer.from(der)
  changed[der.indexOf(Buffer.from('0a01', 'hex'))] = 0x0b
  assert.throws(() => readRevocationList(changed, [key]), refused)
})

test('a list with something critical, a scope or a delta for example, is not taken for the whole', async () => {
  for (const oid of ['2.5.29.28', '2.5.29.27']) {
    const extensions = [new Extension(oid, true, Buffer.from('0500', 'hex'))]
    const der = await derOf({ extensions })
    assert.throws(() => readRevocationList(der, [key]), {
      message: new RegExp(`critical extension ${oid.replaceAll('.', '\\.')}`),
    })
  }
})

test('a list of any scope can be described, and who signed it be asked', async () => {
  const url = 'http://s.test/a/7-delta.crl'
  const { parts } = await signList({
    issuer: issuingIssuer,
    number: 300,
    base: 299,
    scope: 'http://s.test/a/7.crl',
    freshest: url,
    thisUpdate: now,
    nextUpdate: after(day),
    entries: [encodeEntry({ serial: '80ff', revokedAt: now, reason: 'removeFromCRL' })],
  })
  const der = Buffer.concat(parts)
  assert.deepEqual(describeRevocationList(der), {
    issuer: 'CN=Issuing',
    number: '300',
    base: '299',
    scope: 'http://s.test/a/7.crl',
    freshest: url,
    thisUpdate: now,
    nextUpdate: after(day),
    entries: [{ serial: '80ff', revokedAt: now, reason: 'removeFromCRL' }],
  })
  assert.equal(isSignedBy(der, importPublicKey(issuingIssuer.certificate.publicKeySpki)), true)
  assert.equal(isSignedBy(der, key), false)
  const limits = [new Extension('2.5.29.28', true, Buffer.from('30068101ff8401ff', 'hex'))]
  assert.equal(
    describeRevocationList(await derOf({ extensions: limits })).scope,
    'certificates of users, other CAs too',
  )
  assert.throws(() => describeRevocationList(Buffer.from('3000', 'hex')), { code: 'data_damaged' })
})

test('bytes that are no list are refused as such', async () => {
  const der = await derOf({ serials: ['0a01'] })
  for (const bytes of [
    Buffer.alloc(0),
    Buffer.from('3000', 'hex'),
    der.subarray(0, -1),
    Buffer.concat([der, Buffer.alloc(1)]),
  ])
    assert.throws(() => readRevocationList(bytes, [key]), { code: 'data_damaged' })
})
