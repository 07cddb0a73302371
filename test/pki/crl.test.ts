import 'reflect-metadata'
import assert from 'node:assert/strict'
import { verify } from 'node:crypto'
import { test } from 'node:test'
import { X509Crl, X509CrlReason } from '@peculiar/x509'
import * as pkijs from 'pkijs'
import { encodeEntry, type ListEntry, type SignedList, signList } from '../../pki/crl.ts'
import { readDer } from '../../pki/der.ts'
import { importPublicKey } from '../../pki/public-key.ts'
import { readRevocationList } from '../../pki/revocation-list.ts'
import { after, day, issueWith, issuingIssuer, now } from './hierarchy.ts'

const entry = (serial: string, reason = 'keyCompromise'): ListEntry => ({ serial, revokedAt: now, reason })
const derOf = ({ parts }: SignedList): Buffer => Buffer.concat(parts)
const list = (entries: ListEntry[], more: Partial<Parameters<typeof signList>[0]> = {}): Promise<SignedList> =>
  signList({
    issuer: issuingIssuer,
    number: 300,
    thisUpdate: now,
    nextUpdate: after(day),
    entries: entries.map(encodeEntry),
    ...more,
  })
const key = importPublicKey(issuingIssuer.certificate.publicKeySpki)
const issuer = pkijs.Certificate.fromBER(Uint8Array.from(issuingIssuer.certificate.der))
const hexOf = (value: { toBER(): ArrayBuffer }): string => Buffer.from(value.toBER()).toString('hex')

test('a list is what @peculiar/x509, pkijs and our own reader take it for', async () => {
  const { serial } = await issueWith(issuingIssuer)
  const signed = await list([entry(serial), entry('80ff', 'certificateHold'), entry('07', 'unspecified')])
  const der = derOf(signed)
  assert.equal(signed.bytes, der.length)

  const peculiar = new X509Crl(Uint8Array.from(der))
  assert.deepEqual(
    peculiar.entries.map(({ serialNumber, revocationDate, reason }) => [serialNumber, revocationDate, reason]),
    [
      [serial, now, X509CrlReason.keyCompromise],
      ['80ff', now, X509CrlReason.certificateHold],
      // RFC 5280 5.3.1: no reason rather than unspecified.
      ['07', now, undefined],
    ],
  )
  assert.deepEqual([peculiar.thisUpdate, peculiar.nextUpdate], [now, after(day)])

  const pki = pkijs.CertificateRevocationList.fromBER(Uint8Array.from(der))
  assert.ok(await pki.verify({ issuerCertificate: issuer }))
  const extensions = pki.crlExtensions!.extensions.map(({ extnID, critical, extnValue }) => [
    extnID,
    critical,
    Buffer.from(extnValue.valueBlock.valueHexView).toString('hex'),
  ])
  const keyId = issuingIssuer.certificate.subjectKeyId
  assert.deepEqual(extensions, [
    ['2.5.29.35', false, `30168014${keyId}`],
    ['2.5.29.20', false, '0202012c'],
  ])

  const read = readRevocationList(der, [key])
  assert.deepEqual(
    [...read.revoked],
    [
      [serial, 'keyCompromise'],
      ['80ff', 'certificateHold'],
      ['07', 'unspecified'],
    ],
  )
})

test('a list of nobody has no entries, not an empty list of them (RFC 5280 5.1.2.6)', async () => {
  const pki = pkijs.CertificateRevocationList.fromBER(Uint8Array.from(derOf(await list([]))))
  assert.equal(pki.revokedCertificates, undefined)
  assert.ok(await pki.verify({ issuerCertificate: issuer }))
})

test('a list of one distribution point says so critically, and where its delta is', async () => {
  const signed = await list([entry('01')], { scope: 'http://s.test/a/7.crl', freshest: 'http://s.test/a/7-delta.crl' })
  const pki = pkijs.CertificateRevocationList.fromBER(Uint8Array.from(derOf(signed)))
  const [, , scope, freshest] = pki.crlExtensions!.extensions
  assert.deepEqual([scope!.extnID, scope!.critical], ['2.5.29.28', true])
  const point = scope!.parsedValue as pkijs.IssuingDistributionPoint
  assert.equal((point.distributionPoint as pkijs.GeneralName[])[0]!.value, 'http://s.test/a/7.crl')
  assert.deepEqual([freshest!.extnID, freshest!.critical], ['2.5.29.46', false])
  const [where] = (freshest!.parsedValue as pkijs.CRLDistributionPoints).distributionPoints
  assert.equal((where!.distributionPoint as pkijs.GeneralName[])[0]!.value, 'http://s.test/a/7-delta.crl')
})

test('a delta names its base critically, and may take somebody from the list', async () => {
  const der = derOf(await list([entry('01', 'removeFromCRL')], { base: 299 }))
  const pki = pkijs.CertificateRevocationList.fromBER(Uint8Array.from(der))
  const base = pki.crlExtensions!.extensions.find(({ extnID }) => extnID === '2.5.29.27')!
  assert.deepEqual([base.critical, hexOf(base.extnValue)], [true, '04040202012b'])
  assert.equal(new X509Crl(Uint8Array.from(der)).entries[0]!.reason, X509CrlReason.removeFromCRL)
  assert.throws(() => readRevocationList(der, [key]), { code: 'data_damaged', message: /critical extension/ })
})

test('a reason that RFC 5280 does not know is never written', () => {
  assert.throws(() => encodeEntry(entry('01', 'stolen')), RangeError)
})

test('a list of several pieces and megabytes is signed in slices, as if it were one', async () => {
  const piece = Buffer.alloc(2_100_000, encodeEntry(entry('01')))
  let turns = 0
  const count = setInterval(() => turns++, 0)
  const { parts } = await list([], { entries: [piece, Buffer.alloc(0), encodeEntry(entry('02'))] })
  clearInterval(count)
  assert.ok(turns > 0, 'others had their turn')
  const [tbs, signature] = [Buffer.concat(parts.slice(1, -2)), readDer(parts.at(-1)!, 100)]
  assert.ok(verify('sha256', tbs, key, signature.bitString()))
})
