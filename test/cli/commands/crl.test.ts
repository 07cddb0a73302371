import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after as afterAll, test } from 'node:test'
import { encodeEntry, signList } from '../../../pki/crl.ts'
import { fleetgate } from '../../harness/stub-io.ts'
import { after, day, issuingIssuer, now } from '../../pki/hierarchy.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
afterAll(() => rmSync(folder, { recursive: true }))
const file = (name: string, content: string | Buffer): string => {
  writeFileSync(join(folder, name), content)
  return join(folder, name)
}
const { parts } = await signList({
  issuer: issuingIssuer,
  number: 7,
  thisUpdate: now,
  nextUpdate: after(day),
  entries: Array.from({ length: 22 }, (_, at) =>
    encodeEntry({ serial: (at + 16).toString(16), revokedAt: now, reason: 'superseded' }),
  ),
})
const der = Buffer.concat(parts)

test('crl inspect reads a list of anybody, DER or PEM, for people and for scripts', async () => {
  const pem = `-----BEGIN X509 CRL-----\n${der.toString('base64')}\n-----END X509 CRL-----\n`
  const { out } = await fleetgate(['crl', 'inspect', file('list.der', der)])
  assert.match(
    out,
    /^issuer +CN=Issuing\nCRL number +7\nthis update .*\nsignature +not looked at, give --issuer\nentries +22\n/ms,
  )
  assert.match(out, /\n10 +2026-03-01T09:00:00\.000Z +superseded\n/)
  assert.match(out, /\nand 2 more, see -o json\n$/)
  const read = JSON.parse((await fleetgate(['crl', 'inspect', file('list.pem', pem), '-o', 'json'])).out)
  assert.deepEqual([read.number, read.entries.length], ['7', 22])
  assert.deepEqual(read.entries[21], { serial: '25', revokedAt: now.toISOString(), reason: 'superseded' })
})

test('what is no list, or not there, is said to be so', async () => {
  const cases: [string, RegExp][] = [
    [join(folder, 'none'), /It cannot be read: there is no such file/],
    [file('other.pem', '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n'), /There is no X509 CRL in it/],
    [file('noise', 'noise'), /the revocation list cannot be used/],
    [file('large', ''), /it is larger than any list/],
  ]
  truncateSync(join(folder, 'large'), 200 * 1_048_576)
  for (const [name, message] of cases) {
    const { code, err } = await fleetgate(['crl', 'inspect', name])
    assert.notEqual(code, 0)
    assert.match(err, message)
  }
})
