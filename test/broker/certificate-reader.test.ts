import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { test } from 'node:test'
import { readCertificate } from '../../broker/certificate-reader.ts'
import { TestPki } from '../harness/certificates.ts'

const pki = await TestPki.create()
const derOf = async (id: string): Promise<Buffer> => new X509Certificate((await pki.device(id)).pem).raw
const trusted = { isToBeKept: true }

test('a certificate that leads to a CA of ours is read once, and another one is not taken for it', async () => {
  const [one, other] = [await derOf('cam-1'), await derOf('cam-2')]
  const first = readCertificate(one, trusted)
  assert.equal(readCertificate(Buffer.from(one), trusted), first)
  const second = readCertificate(other, trusted)
  assert.notEqual(second.fingerprint, first.fingerprint)
  assert.ok(first.der.equals(one) && second.der.equals(other))
})

test('nothing is kept of a certificate that nobody vouches for, nor given to it of what was', async () => {
  const der = await derOf('cam-3')
  const stranger = { isToBeKept: false }
  const read = readCertificate(der, stranger)
  assert.notEqual(readCertificate(der, trusted), read)
  assert.notEqual(readCertificate(der, stranger), readCertificate(der, trusted))
  assert.throws(() => readCertificate(Buffer.from('30820100', 'hex'), trusted), { code: 'request_malformed' })
})
