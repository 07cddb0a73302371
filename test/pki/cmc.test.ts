import assert from 'node:assert/strict'
import { createHook } from 'node:async_hooks'
import { test } from 'node:test'
import { parseCmcRequest } from '../../pki/cmc.ts'
import { parseCsr, verifyCsr } from '../../pki/csr.ts'
import { octetString, sequence } from '../../pki/der.ts'
import { isSignedBy } from '../../pki/signed-data.ts'
import { createKeyAndCsr } from '../../pki/x509.ts'
import { isFleetError } from '../../runtime/errors.ts'
import { type CmcParts, cmcOids, cmcRequest, pkiData } from '../harness/cmc.ts'
import { withOneMore } from '../harness/der-variants.ts'

const { privateKeyPem: key, csrDer } = await createKeyAndCsr({ commonName: 'cam-1' })
const nonce: [string, Buffer] = [cmcOids.senderNonce, octetString(Buffer.alloc(8))]
const request = (parts: Partial<CmcParts> = {}) =>
  parseCmcRequest(cmcRequest({ csrDer, key, controls: [nonce], ...parts }))

test('a value more at the end of any level of a Full PKI Request is refused, in the message and in what it signs', () => {
  assert.equal(request().reference.controls.length, 1)
  const data = pkiData({ csrDer, key, controls: [nonce] })
  const messages = [
    ...withOneMore(cmcRequest({ csrDer, key, controls: [nonce] })),
    ...[...withOneMore(data)].map((more) => cmcRequest({ csrDer, key, data: more })),
  ]
  assert.ok(messages.length > 30, `${messages.length} levels`)
  for (const der of messages) {
    assert.throws(
      () => parseCsr(parseCmcRequest(der).csrDer),
      (error) => isFleetError(error, 'cmc_malformed') || isFleetError(error, 'csr_malformed'),
    )
  }
})

test('signatures by a key on P-384 are verified on a thread, that of the message and that of the request in it', async () => {
  const { privateKeyPem, csrDer } = await createKeyAndCsr({ commonName: 'cam-1', keyType: 'P-384' })
  const parsed = parseCmcRequest(cmcRequest({ csrDer, key: privateKeyPem, controls: [nonce] }))
  const jobs = new Set<number>()
  let threads = 0
  const counted = createHook({
    init: (id, type) => void (type === 'SIGNREQUEST' && jobs.add(id)),
    // Of what is done on the spot nobody is called back.
    before: (id) => void (jobs.has(id) && threads++),
  }).enable()
  try {
    const { publicKeySpki } = await verifyCsr(parsed.csrDer, { onThread: false })
    assert.equal(await isSignedBy(parsed.message, publicKeySpki), true)
  } finally {
    counted.disable()
  }
  assert.equal(threads, 2)
})

test('a bodyPartID is one of 1 to 4294967295, and stands once (RFC 5272 3.2.1)', () => {
  for (const bodyPartId of [1, 127, 128, 0xffff_ffff]) {
    assert.equal(request({ bodyPartId }).reference.bodyPartId[0], 0x02)
  }
  for (const [bodyPartId, why] of [
    [0, /a bodyPartID of 0/],
    [0x1_0000_0000, /outside 1 to 4294967295/],
    [100, /stands twice/], // as the control
  ] as const) {
    assert.throws(() => request({ bodyPartId }), { code: 'cmc_malformed', message: why })
  }
})

test('what is nested in a request or more than it takes is refused: messages in messages, requests beside the first, too many controls', () => {
  const nested = [
    sequence(sequence(), sequence(), sequence(sequence()), sequence()),
    sequence(sequence(), sequence(), sequence(), sequence(sequence())),
    sequence(sequence(), sequence(), sequence(), sequence()),
  ]
  for (const data of nested) assert.throws(() => request({ data }), { code: 'cmc_malformed' })
  assert.throws(() => request({ requests: [csrDer] }), { code: 'cmc_malformed' })
  const many = Array.from({ length: 33 }, () => nonce)
  assert.throws(() => request({ controls: many }), { code: 'cmc_malformed', message: /more than 32 controls/ })
})
