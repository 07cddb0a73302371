import assert from 'node:assert/strict'
import { hash } from 'node:crypto'
import { test } from 'node:test'
import { type CertificateRow, CertificateTable } from '../../../broker/trust/certificate-table.ts'
import { randomOf } from '../../harness/random.ts'

const fingerprintOf = (n: number): string => hash('sha256', String(n))
const row = (change: Partial<CertificateRow> = {}): CertificateRow => ({
  owner: 1,
  notAfter: 1_000,
  reason: undefined,
  ...change,
})

test('says what a Map would say, over whatever is put in, put in again, forgotten and read from its own octets', () => {
  const random = randomOf(20)
  const reasons = [undefined, 'keyCompromise', 'superseded', 'certificateHold', 'aACompromise']
  for (let round = 0; round < 10; round++) {
    let table = new CertificateTable()
    const map = new Map<string, CertificateRow>()
    // Few beginnings, so that the same small table is full of them.
    const pool = Array.from({ length: 400 }, (_, n) => `${random(2) ? '00' : 'ff'}${fingerprintOf(n).slice(2)}`)
    for (let step = 0; step < 2_000; step++) {
      const fingerprint = pool[random(pool.length)]!
      const action = random(200)
      if (action === 0) {
        const cutoff = random(1_200)
        let dropped = 0
        for (const some of table.dropExpired(cutoff)) dropped += some
        for (const [key, { notAfter }] of map) {
          if (notAfter === 0 || notAfter >= cutoff) continue
          map.delete(key)
          dropped--
        }
        assert.equal(dropped, 0)
      } else if (action === 1) {
        const again = new CertificateTable()
        for (const slice of table.slices()) again.putRows(slice)
        table = again
      } else if (action === 2) {
        const rows = table.rowsOf([fingerprint, 'no certificate'])
        table.set(fingerprint, row({ owner: 99, reason: 'unspecified' }))
        if (rows.length > 0) table.putRows(rows)
        else map.set(fingerprint, row({ owner: 99, reason: 'unspecified' }))
      } else if (action < 100) {
        const now = row({ owner: random(1 << 28), notAfter: random(5) ? random(2_000) : 0, reason: reasons[random(5)] })
        table.set(fingerprint, now)
        map.set(fingerprint, { ...now, notAfter: now.notAfter || (map.get(fingerprint)?.notAfter ?? 0) })
      }
      const asked = pool[random(pool.length)]!
      assert.deepEqual(table.find(asked), map.get(asked))
    }
    assert.equal(table.size, map.size)
    for (const [key, value] of map) assert.deepEqual(table.find(key), value)
  }
})

test('a fingerprint that differs in one bit is another certificate', () => {
  const table = new CertificateTable()
  const known = fingerprintOf(1)
  table.set(known, row())
  for (let bit = 0; bit < 256; bit++) {
    const other = Buffer.from(known, 'hex')
    other[bit >> 3]! ^= 1 << (bit & 7)
    assert.equal(table.find(other.toString('hex')), undefined)
  }
  for (const text of ['', known.slice(2), `${known}00`, known.replace(/.$/, 'g')])
    assert.equal(table.find(text), undefined)
})

test('a reason that RFC 5280 does not have is unspecified, and an end beyond 2106 is 2106', () => {
  const table = new CertificateTable()
  table.set(fingerprintOf(1), row({ reason: 'whim', notAfter: 2 ** 40 }))
  assert.deepEqual(table.find(fingerprintOf(1)), row({ reason: 'unspecified', notAfter: 2 ** 32 - 1 }))
})

test('however many there are, and whatever comes while they are copied out, each is found, in the copies too', () => {
  const fingerprints = Array.from({ length: 6_000 }, (_, n) => fingerprintOf(n))
  const [early, late] = [fingerprints.slice(0, 4_000), fingerprints.slice(4_000)]
  const table = new CertificateTable()
  for (const [n, fingerprint] of early.entries()) table.set(fingerprint, row({ owner: n, notAfter: n }))
  const copy = new CertificateTable()
  const coming = late.entries()
  for (const slice of table.slices()) {
    copy.putRows(slice)
    for (const [n, fingerprint] of coming.take(500)) table.set(fingerprint, row({ owner: 4_000 + n }))
  }
  for (const [n, fingerprint] of coming) table.set(fingerprint, row({ owner: 4_000 + n }))
  for (const [n, fingerprint] of early.entries()) assert.equal(copy.find(fingerprint)?.owner, n)
  copy.putRows(table.rowsOf(fingerprints))
  for (const one of [table, copy]) {
    assert.equal(one.size, fingerprints.length)
    for (const [n, fingerprint] of fingerprints.entries()) assert.equal(one.find(fingerprint)?.owner, n)
  }
  assert.equal(
    copy.dropExpired(3_000).reduce((sum, some) => sum + some, 0),
    2_999 + 2_000,
  )
})
