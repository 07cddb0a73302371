import { randomFillSync } from 'node:crypto'

// OpenSSL takes as long for eight octets as for some hundred.
const stock = Buffer.alloc(4_096)
let at = stock.length

/** From the same source as `randomBytes`, drawn ahead for many callers; each octet is given out once. */
export function randomOctets(count: number): Buffer {
  if (at + count > stock.length) {
    randomFillSync(stock)
    at = 0
  }
  const octets = Buffer.from(stock.subarray(at, at + count))
  stock.fill(0, at, at + count)
  at += count
  return octets
}
