import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { test } from 'node:test'
import { CertificateReader } from '../../broker/certificate-reader.ts'
import { TestPki } from '../harness/certificates.ts'

const pki = await TestPki.create()
const derOf = async (id: string): Promise<Buffer> => new X509Certificate((await pki.device(id)).pem).raw

test('a certificate of the fleet is read once, and another one is not taken for it', async () => {
  const reader = new CertificateReader(() => true)
  const [one, other] = [await derOf('cam-1'), await derOf('cam-2')]
  const first = reader.read(one)
  assert.equal(reader.read(Buffer.from(one)), first)
  const second = reader.read(other)
  assert.notEqual(second.fingerprint, first.fingerprint)
  assert.ok(first.der.equals(one) && second.der.equals(other))
  assert.equal(second.issuer, first.issuer)
  assert.notEqual(second.subject, first.subject)
})

test('nothing is kept of a certificate that is not of the fleet, or not any more', async () => {
  const der = await derOf('cam-3')
  const known = new Set<string>()
  const reader = new CertificateReader((fingerprint) => known.has(fingerprint))
  const read = reader.read(der)
  assert.notEqual(reader.read(der), read)
  known.add(read.fingerprint)
  const kept = reader.read(der)
  assert.equal(reader.read(der), kept)
  known.delete(read.fingerprint)
  assert.notEqual(reader.read(der), kept)
  known.add(read.fingerprint)
  reader.forget([read.fingerprint])
  assert.notEqual(reader.read(der), kept)
  assert.throws(() => reader.read(Buffer.from('30820100', 'hex')), { code: 'request_malformed' })
})
