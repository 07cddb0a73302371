import { hash } from 'node:crypto'

/**
 * The hash chain of the feed and of the audit log: hash(n) = SHA-256(hash(n-1), body(n)).
 *
 * @param previous lower-case hex of hash(n-1), `genesis` before the first
 * @param body     the entry's text, byte for byte as it is stored
 */
export function chainHash(previous: string, body: string): string {
  return hash('sha256', Buffer.concat([Buffer.from(previous, 'hex'), Buffer.from(body)]))
}
