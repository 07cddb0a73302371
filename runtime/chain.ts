import { hash } from 'node:crypto'

/**
 * The hash chain of the feed and of the audit log: hash(n) = SHA-256(hash(n-1), body(n)).
 *
 * @param previous lower-case hex of hash(n-1), `genesis` before the first
 * @param body     the entry's text, byte for byte as it is stored
 */
export function chainHash(previous: string, body: string): string {
  const text = Buffer.allocUnsafe(Buffer.byteLength(previous, 'hex') + Buffer.byteLength(body))
  const at = text.write(previous, 'hex')
  return hash('sha256', text.subarray(0, at + text.write(body, at)))
}
