import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DenialRing } from '../../runtime/denial-ring.ts'

const ringOf = (max: number, maxPerOwner: number) => {
  let ids = 0
  const ring = new DenialRing<{ isRest: boolean }>({ max, maxPerOwner, newId: () => `id-${++ids}` })
  const note = (owner: string, what: string, now = 0) =>
    ring.note({ key: `k ${owner} ${what}`, kind: 'k', owner, now }, (_id, isRest) => ({ isRest }))
  return { ring, note }
}

test('what is like one that is kept has its id', () => {
  const { ring, note } = ringOf(10, 5)
  const first = note('a', 'x')
  const again = note('a', 'x', 5)
  assert.deepEqual([first.isRepeat, again.isRepeat, again.entry.lastAt], [false, true, 5])
  assert.equal(first.entry, again.entry)
  assert.notEqual(note('b', 'x').entry, first.entry)
  assert.equal(ring.find(first.entry.id), first.entry)
})

test('an owner that fills its places fast has the rest counted together, and pushes out nothing', () => {
  const { ring, note } = ringOf(100, 3)
  const other = note('quiet', 'x').entry
  const first = note('loud', '0').entry
  for (let i = 1; i < 3; i++) note('loud', String(i))
  const rest = Array.from({ length: 50 }, (_, i) => note('loud', `more ${i}`).entry)
  assert.equal(new Set(rest).size, 1)
  assert.equal(rest[0]!.value.isRest, true)
  assert.deepEqual([ring.size, ring.find(first.id), ring.find(other.id)], [5, first, other])
})

test('one that was seen long ago makes room for another of the same owner', () => {
  const { ring, note } = ringOf(100, 2)
  const old = note('a', '1', 0).entry
  note('a', '2', 50_000)
  const { entry, dropped } = note('a', '3', 70_000)
  assert.deepEqual([dropped, entry.value.isRest, ring.find(old.id)], [[old], false, undefined])
  assert.deepEqual(
    ring.ofOwner('a').map(({ key }) => key),
    ['k a 2', 'k a 3'],
  )
})

test('over all owners the one that was seen longest ago goes', () => {
  const { ring, note } = ringOf(2, 2)
  const a = note('a', 'x', 1).entry
  const b = note('b', 'x', 2).entry
  note('a', 'x', 3)
  assert.deepEqual(note('c', 'x', 4).dropped, [b])
  assert.deepEqual([ring.size, ring.find(a.id), ring.ofOwner('b')], [2, a, []])
})
