import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { Authorities } from '../../broker/authorities.ts'
import { trust } from '../../contract/listeners.ts'
import { TestPki } from '../harness/certificates.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-authorities-'))
let one: TestPki
let other: TestPki
before(async () => {
  one = await TestPki.create('One')
  other = await TestPki.create('Other', one.root)
})
after(() => rmSync(folder, { recursive: true }))

function authorities(files: Record<string, readonly string[]>): Authorities {
  const rows = Object.entries(files).map(([label, pems]) => {
    const file = join(folder, `${label}.pem`)
    writeFileSync(file, pems.join(''))
    return { label, file, deviceId: 'subject.CN' as const }
  })
  return new Authorities(trust.parse(rows))
}

const refused = (files: Record<string, readonly string[]>, message: RegExp): void =>
  assert.throws(() => authorities(files), { code: 'config_invalid', message })

test('a CA under two labels stops the start, and both are named: by whose rules would its certificates be judged?', () => {
  refused({ north: one.anchors, south: one.anchors }, /CN=One (Root|Issuing CA) stands under north and south/)
  refused({ north: one.anchors, south: [one.root.pem] }, /CN=One Root stands under north and south/)
  refused({ north: [one.issuing.pem], south: one.anchors }, /CN=One Issuing CA stands under north and south/)
})

test('a root that labels have in common, each with a CA of its own below it, is there for chains alone', async () => {
  const found = authorities({ north: one.anchors, south: other.anchors })
  const { anchors, findIssuer } = found.trustOf(['north', 'south'])
  assert.equal(anchors.filter((pem) => pem.trim() === one.root.pem.trim()).length, 2)
  const labelOf = ({ pem }: { pem: string }): string | undefined => {
    const issuer = findIssuer(new X509Certificate(pem), true)
    return issuer.kind === 'trusted' ? issuer.authority.label : issuer.kind
  }
  const device = await one.device('cam-1')
  assert.equal(labelOf(device), 'north')
  assert.equal(labelOf(device), 'north', 'as it was said of the same octets before')
  assert.equal(labelOf(await other.device('cam-1')), 'south')
  assert.equal(labelOf(await one.deviceOfRoot('cam-1')), 'unknown')
})

test('a label that holds the CA of this gateway stops the start', () => {
  const found = authorities({ former: one.anchors })
  found.setOwn(other.anchors.slice(1))
  found.requireOthers()
  found.setOwn(one.anchors)
  assert.throws(() => found.requireOthers(), {
    code: 'config_invalid',
    message: /broker\.trust former holds the CA of this gateway, whose label is fleetgate/,
  })
})
