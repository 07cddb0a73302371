import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type ProblemCode, problems, problemType, setUpProblems } from '../../contract/problems.ts'

const codes = Object.keys(problems) as ProblemCode[]

test('a code is snake_case, its status an HTTP error, its title one plain sentence', () => {
  for (const code of codes) {
    assert.match(code, /^[a-z]+(_[a-z]+)*$/)
    assert.ok(problems[code].status >= 400 && problems[code].status < 600, code)
    assert.match(problems[code].title, /^[A-Z][^.]*[^.\s]$/, code)
  }
})

test('no two codes have the same title or the same type', () => {
  assert.equal(new Set(codes.map((code) => problems[code].title)).size, codes.length)
  assert.equal(new Set(codes.map(problemType)).size, codes.length)
  assert.equal(problemType('device_revoked'), 'urn:fleetgate:problem:device-revoked')
})

test('every problem of set-up is in the registry', () => {
  for (const code of setUpProblems) assert.ok(Object.hasOwn(problems, code), code)
})
