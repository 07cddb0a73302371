import { renewalWindow, renewalWindowHeader } from '../../contract/renewal-window.ts'
import { validityOf } from '../../pki/certificate.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { EdgeRequest } from '../../runtime/https.ts'

/** libest wants it written exactly so (RFC 7030 4.2.3). */
export const certsOnlyType = 'application/pkcs7-mime; smime-type=certs-only'

/** What a device is told with its certificate, since RFC 7030 has no words for it: when to come back. */
export function windowOf(certificate: Buffer): Record<string, string> {
  const { from, to } = renewalWindow(certificate, validityOf(certificate))
  return { [renewalWindowHeader]: `${from.toISOString()}/${to.toISOString()}` }
}

/**
 * A base64 body as real clients send it: on one line or wrapped, LF or CRLF, with or without PEM armour.
 * Content-Transfer-Encoding says nothing (RFC 8951 3).
 *
 * @throws FleetError of the code with what was seen
 */
export function decodeBody(body: Buffer, code: 'csr_malformed' | 'cmc_malformed' = 'csr_malformed'): Buffer {
  const wanted = code === 'csr_malformed' ? 'a PKCS#10 request' : 'a CMC request'
  if (body.length === 0) throw new FleetError(code, `the body is empty; base64 of ${wanted} is wanted`)
  if (body[0] === 0x30 && body.some((octet) => octet > 0x7f)) {
    throw new FleetError(code, 'the body is binary DER; base64 of it is wanted (RFC 8951 3)')
  }
  const text = body.toString('latin1').trim()
  const armoured = /^-----BEGIN ([A-Z0-9 ]{1,64})-----([^-]*)-----END \1-----$/.exec(text)
  const base64 = (armoured ? armoured[2]! : text).replaceAll(/[\t\n\r ]/g, '')
  if (base64.split('-----BEGIN').length > 2) {
    throw new FleetError(code, `the body has more than one PEM block; base64 of ${wanted} is wanted`)
  }
  if (base64.length % 4 !== 0 || !/^[A-Za-z0-9+/]+={0,2}$/.test(base64)) {
    throw new FleetError(code, `the body is not base64 of ${wanted}`)
  }
  return Buffer.from(base64, 'base64')
}

/**
 * Base64 as this client can read it. strongSwan 5.9.8 fails on wrapped base64; libest fails when the first line end does
 * not come within 1024 bytes. So: wrapped at 64 for libest and for whoever wraps its own body, else one line.
 */
export function encodeBody(der: Uint8Array, request: Pick<EdgeRequest, 'headers' | 'body'>): string {
  const base64 = Buffer.from(der).toString('base64')
  const wrap = /^libest/i.test(request.headers['user-agent'] ?? '') || isWrapped(request.body)
  return `${wrap ? base64.replaceAll(/.{64}(?=.)/g, '$&\n') : base64}\n`
}

const isWrapped = (body: Buffer): boolean => body.includes(0x0a) && body.toString('latin1').trim().includes('\n')

const alphabet = Buffer.from('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/')

/** Base64 in lines of 64 that never is a string: octets can be overwritten, strings stay in memory. */
export function encodeSecret(der: Uint8Array): Buffer {
  const digits = Math.ceil(der.length / 3) * 4
  const out = Buffer.alloc(digits + Math.ceil(digits / 64) * 2)
  let to = 0
  for (let at = 0; at < der.length; at += 3) {
    const [first, second, third] = [der[at]!, der[at + 1], der[at + 2]]
    out[to++] = alphabet[first >> 2]!
    out[to++] = alphabet[((first & 3) << 4) | ((second ?? 0) >> 4)]!
    out[to++] = second === undefined ? 0x3d : alphabet[((second & 15) << 2) | ((third ?? 0) >> 6)]!
    out[to++] = third === undefined ? 0x3d : alphabet[third & 63]!
    if (at % 48 === 45 || at + 3 >= der.length) to += out.write('\r\n', to)
  }
  return out
}
