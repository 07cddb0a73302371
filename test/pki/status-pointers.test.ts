import 'reflect-metadata'
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as peculiar from '@peculiar/x509'
import * as pkijs from 'pkijs'
import { prepare } from '../../pki/certificate.ts'
import { ocspProfile } from '../../pki/profile.ts'
import { issueWith, issuingIssuer, leafInput } from './hierarchy.ts'

const pointers = {
  crl: 'http://status.example/1a2b3c4d/12.crl',
  ocsp: 'http://status.example/ocsp',
  caIssuers: 'http://status.example/1a2b3c4d/ca.cer',
}

test('a certificate says where its status is, as @peculiar/x509 and pkijs read it', async () => {
  const { der } = await issueWith(issuingIssuer, { pointers })
  const access = new peculiar.X509Certificate(Uint8Array.from(der)).getExtension(peculiar.AuthorityInfoAccessExtension)!
  assert.deepEqual(
    [access.critical, access.ocsp[0]!.value, access.caIssuers[0]!.value],
    [false, pointers.ocsp, pointers.caIssuers],
  )
  const points = pkijs.Certificate.fromBER(Uint8Array.from(der)).extensions!.find(
    ({ extnID }) => extnID === '2.5.29.31',
  )!
  const [point] = (points.parsedValue as pkijs.CRLDistributionPoints).distributionPoints
  assert.equal((point!.distributionPoint as pkijs.GeneralName[])[0]!.value, pointers.crl)
  assert.equal(points.critical, false)
  // libest and others read 1024 octets of an answer: base64 of the certificate and some 60 octets around it.
  assert.ok(der.length < 690, `${der.length} octets`)
})

test('without a responder no OCSP is named', async () => {
  const { crl, caIssuers } = pointers
  const { der } = await issueWith(issuingIssuer, { pointers: { crl, caIssuers } })
  const access = new peculiar.X509Certificate(Uint8Array.from(der)).getExtension(peculiar.AuthorityInfoAccessExtension)!
  assert.deepEqual([access.ocsp.length, access.caIssuers[0]!.value], [0, caIssuers])
})

test('a pointer that is no URL of plain HTTP is never signed (RFC 5280 8)', () => {
  for (const crl of ['https://status.example/1.crl', 'ldap://x', '1.crl', '']) {
    assert.throws(() => prepare(leafInput(issuingIssuer, { pointers: { ...pointers, crl } })), { code: 'lint_failed' })
  }
})

test("a responder's certificate is for nothing but answers, and nobody has to ask for its status", async () => {
  const { der } = await issueWith(issuingIssuer, { profile: ocspProfile, subjectAltName: {} })
  const certificate = new peculiar.X509Certificate(Uint8Array.from(der))
  const usage = certificate.getExtension(peculiar.ExtendedKeyUsageExtension)!
  assert.deepEqual([...usage.usages], ['1.3.6.1.5.5.7.3.9'])
  const noCheck = certificate.getExtension('1.3.6.1.5.5.7.48.1.5')!
  assert.deepEqual([noCheck.critical, Buffer.from(noCheck.value).toString('hex')], [false, '0500'])
})
