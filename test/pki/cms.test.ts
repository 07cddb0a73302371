import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { test } from 'node:test'
import 'reflect-metadata'
import * as peculiar from '@peculiar/x509'
import * as pkijs from 'pkijs'
import { certsOnly, parseCertsOnly } from '../../pki/cms.ts'
import { contextConstructed, element, integer, octetString, oid, sequence, setOf } from '../../pki/der.ts'
import { oids } from '../../pki/oids.ts'
import { isFleetError } from '../../runtime/errors.ts'
import { issueWith, issuingIssuer, rootIssuer } from './hierarchy.ts'

const leaf = (await issueWith(issuingIssuer)).der
const issuing = issuingIssuer.certificate.der
const root = rootIssuer.certificate.der
const chain = [leaf, issuing, root]
const message = certsOnly(chain)

const opensslMissing = ((): string | false => {
  try {
    execFileSync('openssl', ['version'])
    return false
  } catch {
    return 'openssl is not installed'
  }
})()

test('certs-only reads back in the order it was written', () => {
  assert.deepEqual(parseCertsOnly(message), chain)
  assert.deepEqual(parseCertsOnly(certsOnly([leaf])), [leaf])
})

test('pkijs writes the same certificates as the same bytes', () => {
  const certificates = chain.map((der) => pkijs.Certificate.fromBER(Uint8Array.from(der)))
  const signedData = new pkijs.SignedData({
    version: 1,
    encapContentInfo: new pkijs.EncapsulatedContentInfo({ eContentType: pkijs.ContentInfo.DATA }),
    certificates,
  })
  const info = new pkijs.ContentInfo({ contentType: pkijs.ContentInfo.SIGNED_DATA, content: signedData.toSchema(true) })
  assert.deepEqual(Buffer.from(info.toSchema().toBER()), message)
})

test('@peculiar/x509 reads certs-only', () => {
  const found = new peculiar.X509Certificates(message)
  assert.deepEqual(
    Array.from(found, ({ rawData }) => Buffer.from(rawData)),
    chain,
  )
})

test('openssl prints the certificates of certs-only', { skip: opensslMissing }, () => {
  const options = ['pkcs7', '-inform', 'DER', '-print_certs', '-noout']
  const text = execFileSync('openssl', options, { input: message, encoding: 'utf8' })
  assert.deepEqual(text.match(/subject=.*/g), ['subject=CN = cam-1', 'subject=CN = Issuing', 'subject=CN = Root'])
})

/** SignedData with one part replaced. */
function signedData(parts: {
  content?: Buffer
  certificates?: Buffer[]
  signerInfos?: Buffer[]
  type?: string
}): Buffer {
  const inner = sequence(
    integer(1),
    setOf(),
    parts.content ?? sequence(oid(oids.data)),
    element(contextConstructed(0), ...(parts.certificates ?? [leaf])),
    setOf(...(parts.signerInfos ?? [])),
  )
  return sequence(oid(parts.type ?? oids.signedData), element(contextConstructed(0), inner))
}

const refused: [string, Buffer][] = [
  ['a byte after its end', Buffer.concat([message, Buffer.of(0)])],
  ['its last byte missing', message.subarray(0, -1)],
  ['nothing in it', Buffer.of()],
  ['another content type', signedData({ type: oids.data })],
  [
    'signed content',
    signedData({ content: sequence(oid(oids.data), element(contextConstructed(0), octetString(Buffer.of(1)))) }),
  ],
  ['no certificate', signedData({ certificates: [] })],
  ['something that is no certificate', signedData({ certificates: [sequence(integer(1))] })],
  ['a signer', signedData({ signerInfos: [sequence(integer(1))] })],
  ['256 kB', certsOnly(Array(1_000).fill(root))],
  ['a bare certificate', leaf],
]
for (const [what, der] of refused) {
  test(`parseCertsOnly refuses a message with ${what}`, () => {
    assert.throws(
      () => parseCertsOnly(der),
      (error) => isFleetError(error, 'request_malformed'),
    )
  })
}

test('parseCertsOnly takes BER around the certificates, as other servers send it', () => {
  const indefinite = (tag: number, content: Buffer): Buffer =>
    Buffer.concat([Buffer.of(tag, 0x80), content, Buffer.of(0, 0)])
  const inner = Buffer.concat([
    integer(1),
    setOf(),
    sequence(oid(oids.data)),
    indefinite(contextConstructed(0), Buffer.concat([leaf, root])),
    setOf(),
  ])
  const outer = indefinite(0x30, Buffer.concat([oid(oids.signedData), indefinite(0xa0, indefinite(0x30, inner))]))
  assert.deepEqual(parseCertsOnly(outer), [leaf, root])
})
