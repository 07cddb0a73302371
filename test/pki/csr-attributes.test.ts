import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fromBER } from 'asn1js'
import { asksForChannelBinding, buildCsrAttributes } from '../../pki/csr-attributes.ts'
import { DerError } from '../../pki/der.ts'
import { buildName } from '../../pki/names.ts'

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(/\s/g, ''), 'hex')
const extensionRequest = '3024 0609 2a864886f70d01090e 3117 3015 3013 0603551d25 040c 300a 0608 2b06010505070302' // EKU clientAuth

test('key type and usage stand in the older form and again in the template, with the subject (RFC 9908 3.2, 3.4)', () => {
  const der = buildCsrAttributes({
    template: { keyType: 'P-256', extendedKeyUsage: ['clientAuth'], subject: buildName({ commonName: 'cam-1' }) },
    channelBinding: false,
  })
  assert.deepEqual(
    der,
    hex(`3081a4
      3015 0607 2a8648ce3d0201 310a 0608 2a8648ce3d030107
      ${extensionRequest}
      3065 060b 2a864886f70d010910023d 3156 3054
        0201 00
        3010 310e 300c 0603550403 0c05 63616d2d31
        a015 3013 0607 2a8648ce3d0201 0608 2a8648ce3d030107
        a126 ${extensionRequest}`),
  )
})

test('without a subject the template asks for a CN and leaves its value to the client (RFC 9908 3.4)', () => {
  const der = buildCsrAttributes({
    template: { keyType: 'Ed25519', extendedKeyUsage: ['clientAuth'], subject: undefined },
    channelBinding: false,
  })
  assert.deepEqual(
    der,
    hex(`308181
      3007 0603 2b6570 3100
      ${extensionRequest}
      3050 060b 2a864886f70d010910023d 3141 303f
        0201 00
        3009 3107 3005 0603550403
        a007 3005 0603 2b6570
        a126 ${extensionRequest}`),
  )
})

test('a channel binding that is required is asked for by challengePassword, without a template, which cannot (RFC 7030 3.5)', () => {
  const template = { keyType: 'Ed25519' as const, extendedKeyUsage: ['clientAuth' as const], subject: undefined }
  const challenge = '0609 2a864886f70d010907'
  const asking = buildCsrAttributes({ template, channelBinding: true })
  assert.deepEqual(asking, hex(`303a ${challenge} 3007 0603 2b6570 3100 ${extensionRequest}`))
  const alone = buildCsrAttributes({ template: undefined, channelBinding: true })
  assert.deepEqual(alone, hex(`300b ${challenge}`))
  for (const der of [asking, alone]) assert.equal(asksForChannelBinding(der), true)
})

test('a client finds the wish for a channel binding as an OID or as an attribute, and nowhere else', () => {
  const template = { keyType: 'P-256' as const, extendedKeyUsage: ['clientAuth' as const], subject: undefined }
  assert.equal(asksForChannelBinding(buildCsrAttributes({ template, channelBinding: false })), false)
  assert.equal(asksForChannelBinding(hex('3000')), false)
  assert.equal(asksForChannelBinding(hex('300f 300d 0609 2a864886f70d010907 3100')), true)
  assert.throws(() => asksForChannelBinding(hex('3003 0201 00')), DerError)
  assert.throws(() => asksForChannelBinding(hex('3000 00')), DerError)
})

test('every key type gives DER that asn1js reads to its end', () => {
  for (const keyType of ['P-256', 'P-384', 'Ed25519', 'RSA'] as const) {
    const template = { keyType, extendedKeyUsage: ['clientAuth' as const], subject: undefined }
    const der = buildCsrAttributes({ template, channelBinding: false })
    assert.equal(fromBER(Uint8Array.from(der)).offset, der.length)
  }
})
