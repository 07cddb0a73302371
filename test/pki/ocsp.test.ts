import 'reflect-metadata'
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Enumerated, Integer, OctetString } from 'asn1js'
import fc from 'fast-check'
import * as pkijs from 'pkijs'
import { contextConstructed, element, integer, octetString, oid, readDer, sequence, tags } from '../../pki/der.ts'
import { writeExtension } from '../../pki/extensions.ts'
import {
  type CertificateId,
  type CertificateStatus,
  issuerIds,
  maxOcspRequestBytes,
  type OcspRequest,
  ocspFailure,
  parseOcspRequest,
  signOcspResponse,
} from '../../pki/ocsp.ts'
import { oids } from '../../pki/oids.ts'
import { ocspProfile } from '../../pki/profile.ts'
import { isFleetError } from '../../runtime/errors.ts'
import { after, createSigner, day, issueWith, issuingIssuer, now, rootIssuer } from './hierarchy.ts'

const read = (der: Buffer): pkijs.Certificate => pkijs.Certificate.fromBER(Uint8Array.from(der))
const leaf = await issueWith(issuingIssuer)
const issuer = read(issuingIssuer.certificate.der)
const signer = createSigner()
const by = {
  certificate: await issueWith(issuingIssuer, {
    profile: ocspProfile,
    publicKeySpki: signer.publicKeySpki,
    // pkijs looks at the clock.
    notBefore: new Date(Date.now() - day),
    notAfter: new Date(Date.now() + day),
    subjectAltName: {},
  }),
  signer,
}

async function request(hashAlgorithm: string, nonce?: Uint8Array): Promise<Buffer> {
  const made = new pkijs.OCSPRequest()
  await made.createForCertificate(read(leaf.der), { hashAlgorithm, issuerCertificate: issuer })
  if (nonce !== undefined) {
    const extnValue = new OctetString({ valueHex: nonce.slice().buffer }).toBER()
    made.tbsRequest.requestExtensions = [new pkijs.Extension({ extnID: oids.ocspNonce, extnValue })]
  }
  return Buffer.from(made.toSchema(true).toBER())
}

function partsOf(der: Buffer): Buffer[] {
  const reader = readDer(der, der.length).enter()
  const parts: Buffer[] = []
  while (!reader.done) parts.push(reader.next().der)
  return parts
}

const respond = (asked: OcspRequest, status: CertificateStatus): Promise<Buffer> =>
  signOcspResponse({
    by,
    answers: asked.ids.map((id) => ({ id, status })),
    nonce: asked.nonce,
    thisUpdate: now,
    nextUpdate: after(day),
  })

const basicOf = (der: Buffer): pkijs.BasicOCSPResponse => {
  const response = pkijs.OCSPResponse.fromBER(Uint8Array.from(der))
  return pkijs.BasicOCSPResponse.fromBER(response.responseBytes!.response.valueBlock.valueHexView.slice().buffer)
}

test('a request of pkijs names certificate and issuer, by SHA-1 and by SHA-256, with parameters NULL or none', async () => {
  const known = issuerIds(issuingIssuer.certificate)
  const seen = new Set<string>()
  for (const hash of ['SHA-1', 'SHA-256']) {
    const { ids, nonce } = parseOcspRequest(await request(hash))
    const [{ issuer, serial, der }] = ids as [CertificateId]
    assert.deepEqual([ids.length, known.includes(issuer), serial, nonce], [1, true, leaf.serial, undefined])
    const [algorithm, name, key, number] = partsOf(der)
    const bare = sequence(partsOf(algorithm!)[0]!)
    const asked = sequence(sequence(sequence(sequence(sequence(bare, name!, key!, number!)))))
    const other = parseOcspRequest(asked).ids[0]!.issuer
    assert.ok(known.includes(other))
    seen.add(issuer).add(other)
  }
  assert.deepEqual([...seen].toSorted(), known.toSorted())
  assert.ok(!issuerIds(rootIssuer.certificate).some((id) => known.includes(id)))
})

test('pkijs verifies answers: good, unknown, and revoked with time and reason', async () => {
  const revokedAt = after(-5_000)
  const cases: [CertificateStatus, number][] = [
    [{ status: 'good' }, 0],
    [{ status: 'revoked', revokedAt, reason: 'certificateHold' }, 1],
    [{ status: 'revoked', revokedAt, reason: 'unspecified' }, 1],
    [{ status: 'unknown' }, 2],
  ]
  for (const [status, code] of cases) {
    const der = await respond(parseOcspRequest(await request('SHA-256')), status)
    const response = pkijs.OCSPResponse.fromBER(Uint8Array.from(der))
    const found = await response.getCertificateStatus(read(leaf.der), issuer)
    assert.deepEqual([found.isForCertificate, found.status], [true, code])
    const basic = basicOf(der)
    assert.ok(await basic.verify({ trustedCerts: [issuer] }))
    const [single] = basic.tbsResponseData.responses
    assert.deepEqual([single!.thisUpdate, single!.nextUpdate], [now, after(day)])
    assert.deepEqual(basic.tbsResponseData.producedAt, now)
    if (status.status !== 'revoked') continue
    const [time, reason] = single!.certStatus.valueBlock.value
    assert.deepEqual(time.toDate(), revokedAt)
    const shown = reason?.valueBlock.value[0] as Enumerated | undefined
    assert.equal(shown?.valueBlock.valueDec, status.reason === 'certificateHold' ? 6 : undefined)
  }
})

test('a nonce comes back as it was sent; one without octets or with more than 128 is refused (RFC 9654 2.1)', async () => {
  for (const length of [1, 32, 128]) {
    const nonce = Buffer.alloc(length, length)
    const basic = basicOf(await respond(parseOcspRequest(await request('SHA-1', nonce)), { status: 'good' }))
    const [extension] = basic.tbsResponseData.responseExtensions!
    assert.equal(extension!.extnID, oids.ocspNonce)
    assert.deepEqual(Buffer.from(extension!.extnValue.valueBlock.valueHexView), octetString(nonce))
  }
  for (const length of [0, 129]) {
    const der = await request('SHA-1', Buffer.alloc(length))
    assert.throws(() => parseOcspRequest(der), { code: 'request_malformed', message: /a nonce of/ })
  }
})

const anId = sequence(
  sequence(oid(oids.sha1), element(tags.null)),
  octetString(Buffer.alloc(20)),
  octetString(Buffer.alloc(20)),
  integer(7),
)
const asked = (...requests: Buffer[]): Buffer => sequence(sequence(sequence(...requests)))

test('the certificates of a chain may be asked for together, signed or not, under a name or not', () => {
  const several = sequence(
    sequence(
      element(contextConstructed(0), integer(0)),
      element(contextConstructed(1), element(0x82, Buffer.from('somebody'))),
      sequence(sequence(anId), sequence(anId)),
    ),
    element(contextConstructed(0), sequence()),
  )
  assert.deepEqual(
    parseOcspRequest(several).ids.map(({ serial, der }) => [serial, der.equals(anId)]),
    [
      ['07', true],
      ['07', true],
    ],
  )
})

test('what is no request, or too much of one, is refused', () => {
  const critical = sequence(writeExtension('1.2.3.4', Buffer.alloc(2), true))
  const cases: [RegExp, Buffer][] = [
    [/missing|cut off/, Buffer.alloc(0)],
    [/missing/, sequence()],
    [/no certificate/, asked()],
    [/more than 8/, asked(...Array.from({ length: 9 }, () => sequence(anId)))],
    [/at most 4096/, Buffer.alloc(maxOcspRequestBytes + 1, 0x30)],
    [/a version/, sequence(sequence(element(contextConstructed(0), integer(1)), sequence(sequence(anId))))],
    [/unexpected/, asked(sequence(anId, integer(1)))],
    [/critical/, sequence(sequence(sequence(sequence(anId)), element(contextConstructed(2), critical)))],
    [/critical/, asked(sequence(anId, element(contextConstructed(0), critical)))],
    [
      /serial/,
      asked(
        sequence(
          sequence(
            sequence(oid(oids.sha1)),
            octetString(Buffer.alloc(20)),
            octetString(Buffer.alloc(20)),
            element(tags.integer, Buffer.of(0x80)),
          ),
        ),
      ),
    ],
  ]
  for (const [message, der] of cases) {
    assert.throws(() => parseOcspRequest(der), { code: 'request_malformed', message })
  }
  assert.throws(() => parseOcspRequest(Buffer.from(new Integer({ value: 1 }).toBER())), { code: 'request_malformed' })
})

test('a request that was bent is one of serial numbers all the same, or refused as malformed (property)', async () => {
  const whole = [await request('SHA-256', Buffer.alloc(32, 7)), asked(sequence(anId), sequence(anId))]
  const bends = fc.array(fc.tuple(fc.nat(200), fc.nat(8), fc.uint8Array({ maxLength: 8 })), {
    minLength: 1,
    maxLength: 3,
  })
  fc.assert(
    fc.property(fc.constantFrom(...whole), bends, (der, bends) => {
      const bent = bends.reduce(
        (octets, [at, gone, put]) => Buffer.concat([octets.subarray(0, at), put, octets.subarray(at + gone)]),
        der,
      )
      let ids: CertificateId[]
      try {
        ;({ ids } = parseOcspRequest(bent))
      } catch (error) {
        assert.ok(isFleetError(error, 'request_malformed'), String(error))
        return
      }
      assert.ok(ids.length >= 1 && ids.length <= 8)
      for (const { serial, der } of ids) assert.ok(/^([0-9a-f]{2}){1,21}$/.test(serial) && bent.includes(der))
    }),
    { numRuns: 500 },
  )
})

test('a failure says which, and nothing else', () => {
  const status = (der: Buffer): number =>
    pkijs.OCSPResponse.fromBER(Uint8Array.from(der)).responseStatus.valueBlock.valueDec
  assert.deepEqual(
    (['malformedRequest', 'tryLater', 'unauthorized'] as const).map((name) => status(ocspFailure(name))),
    [1, 3, 6],
  )
})
