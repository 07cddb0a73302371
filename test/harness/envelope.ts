/** Opens what the server encrypts and signs, with a library that it does not encrypt and sign with. */
import 'reflect-metadata'
import assert from 'node:assert/strict'
import { createPrivateKey, type KeyObject } from 'node:crypto'
import { fromBER, OctetString } from 'asn1js'
import * as pkijs from 'pkijs'
import { pemToDer } from './fleet.ts'

/** @param privateKeyPem PKCS#8 of the recipient @returns what was enveloped */
export async function openEnvelope(der: Buffer, privateKeyPem: string): Promise<Buffer> {
  const info = pkijs.ContentInfo.fromBER(Uint8Array.from(der))
  assert.equal(info.contentType, pkijs.ContentInfo.ENVELOPED_DATA)
  const enveloped = new pkijs.EnvelopedData({ schema: info.content })
  const recipientPrivateKey = Uint8Array.from(pemToDer(privateKeyPem)).buffer
  return Buffer.from(await enveloped.decrypt(0, { recipientPrivateKey }))
}

/** Checks a SignedData (no ContentInfo around it) against a root. @returns its content and the type of that */
export async function readSigned(der: Buffer, rootPem: string): Promise<{ type: string; content: Buffer }> {
  const { result, offset } = fromBER(Uint8Array.from(der))
  assert.equal(offset, der.length)
  const signed = new pkijs.SignedData({ schema: result })
  const certificate = (bytes: Buffer): pkijs.Certificate => pkijs.Certificate.fromBER(Uint8Array.from(bytes))
  const trustedCerts = [certificate(pemToDer(rootPem))]
  const outcome = await signed.verify({ signer: 0, trustedCerts, checkChain: true, extendedMode: true })
  assert.equal(outcome.signatureVerified, true)
  const { eContent, eContentType } = signed.encapContentInfo
  assert.ok(eContent instanceof OctetString)
  return { type: eContentType, content: Buffer.from(eContent.getValue()) }
}

/** The one key of an AsymmetricKeyPackage (RFC 5958 2). */
export function keyOfPackage(der: Buffer): KeyObject {
  const { result } = fromBER(Uint8Array.from(der))
  const [key] = (result.valueBlock as unknown as { value: { toBER(): ArrayBuffer }[] }).value
  return createPrivateKey({ key: Buffer.from(key!.toBER()), format: 'der', type: 'pkcs8' })
}
