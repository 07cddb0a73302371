import assert from 'node:assert/strict'
import { test } from 'node:test'
import { element, oid, sequence, setOf, tags, utf8String } from '../../pki/der.ts'
import { parseName } from '../../pki/names.ts'
import { oids } from '../../pki/oids.ts'
import { factsOfCertificate } from '../../pki/principal-facts.ts'
import { issueWith, issuingIssuer } from './hierarchy.ts'

test('facts of a certificate are values of its RDNs, names and fields, never printed text', async () => {
  const attribute = (type: string, value: Buffer): Buffer => sequence(oid(type), value)
  const subject = sequence(
    setOf(attribute(oids.organization, utf8String('ACME'))),
    setOf(attribute(oids.organizationalUnit, utf8String('roof'))),
    setOf(attribute(oids.organizationalUnit, utf8String('a, CN=other'))),
    // A multi-valued RDN and a string that is not what it says are nobody's value.
    setOf(attribute(oids.organizationalUnit, utf8String('x')), attribute(oids.serialNumberAttribute, utf8String('7'))),
    setOf(attribute(oids.serialNumberAttribute, element(tags.printableString, Buffer.from('SN-1')))),
    setOf(attribute(oids.organizationalUnit, element(tags.utf8String, Buffer.from([0xff])))),
    setOf(attribute(oids.commonName, utf8String('cam-1'))),
  )
  const subjectAltName = { uris: ['urn:fleetgate:device:cam-1'], dns: ['cam-1.example.org'] }
  // Our own CA would not sign such a name.
  const certificate = { ...(await issueWith(issuingIssuer, { subjectAltName })), subject: parseName(subject) }
  assert.deepEqual(factsOfCertificate(certificate), {
    unread: ['subject.OU', 'subject.serialNumber'],
    'subject.CN': ['cam-1'],
    'subject.OU': ['roof', 'a, CN=other'],
    'subject.O': ['ACME'],
    'subject.serialNumber': ['SN-1'],
    'san.uri': ['urn:fleetgate:device:cam-1'],
    'san.dns': ['cam-1.example.org'],
    'cert.serial': [certificate.serial],
    'cert.fingerprint': [certificate.fingerprint],
    'cert.notAfter': ['2026-03-31T09:00:00.000Z'],
    issuer: ['Issuing'],
  })
})
