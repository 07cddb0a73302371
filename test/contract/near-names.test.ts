import assert from 'node:assert/strict'
import { test } from 'node:test'
import { didYouMean, nearNames } from '../../contract/near-names.ts'

test('a slip of a finger is recognized: a letter too many, too few, another, two that changed places, and capitals', () => {
  const known = ['cam-1', 'cam-2', 'sensor-1']
  for (const typed of ['cam1', 'cam--1', 'cm-1', 'acm-1', 'CAM-1', 'com-1'])
    assert.equal(nearNames(typed, known)[0], 'cam-1', typed)
  assert.deepEqual(nearNames('sensro-1', known), ['sensor-1'])
})

test('what is not near is not named, the nearest come first, and three at most', () => {
  assert.deepEqual(nearNames('gateway', ['cam-1', 'x']), [])
  assert.deepEqual(nearNames('ab', ['xy', 'cd']), [])
  const many = Array.from({ length: 50 }, (_, at) => `cam-${at + 10}`)
  assert.deepEqual(nearNames('cam-1', [...many, 'cam-1x', 'kam-1']), ['cam-10', 'cam-11', 'cam-12'])
  assert.equal(didYouMean('xyz', many), '')
  assert.equal(didYouMean('sensro', ['sensor', 'senso', 'sensor']), '; did you mean senso or sensor?')
})

test('names of any length are compared within bounds', () => {
  const long = 'a'.repeat(100_000)
  assert.deepEqual(nearNames(long, [`${'a'.repeat(63)}b`, long]), [long, `${'a'.repeat(63)}b`])
})
