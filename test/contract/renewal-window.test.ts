import assert from 'node:assert/strict'
import { test } from 'node:test'
import { renewalWindow } from '../../contract/renewal-window.ts'

const day = 86_400_000
const validity = { notBefore: new Date(0), notAfter: new Date(30 * day) }

test('each certificate has its own window, which begins two thirds into its life or up to a twentieth later', () => {
  const windows = Array.from({ length: 100 }, (_, n) => renewalWindow(Buffer.from(`certificate ${n}`), validity))
  assert.deepEqual(renewalWindow(Buffer.from('certificate 7'), validity), windows[7])
  const begins = windows.map(({ from }) => from.getTime() / day)
  assert.ok(begins.every((at) => at >= 20 && at < 21.5))
  assert.ok(Math.max(...begins) - Math.min(...begins) > 1.2, 'they are all over it')
  assert.ok(windows.every(({ from, to }) => Math.round(to.getTime() - from.getTime()) === 1.5 * day))
})
