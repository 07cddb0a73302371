import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setUpProblems } from '../../contract/problems.ts'
import { exitCodeOf, FleetError, isFleetError } from '../../runtime/errors.ts'

test('an error carries code, message, cause and context', () => {
  const cause = new Error('below')
  const error = new FleetError('not_found', 'no such thing', { cause, context: { id: 'x' } })
  assert.deepEqual(
    [error.code, error.message, error.cause, error.context, error.name],
    ['not_found', 'no such thing', cause, { id: 'x' }, 'FleetError'],
  )
  assert.equal(Object.hasOwn(new FleetError('not_found', ''), 'cause'), false)
})

test('an error is known by its class, and by its code when one is asked for', () => {
  const error = new FleetError('not_found', '')
  assert.equal(isFleetError(error), true)
  assert.equal(isFleetError(error, 'not_found'), true)
  assert.equal(isFleetError(error, 'conflict'), false)
  assert.equal(isFleetError({ code: 'not_found', message: '', context: {} }), false)
})

test('the exit code is 2 when the operator has to change something, else 1', () => {
  for (const code of setUpProblems) assert.equal(exitCodeOf(new FleetError(code, '')), 2)
  assert.equal(exitCodeOf(new FleetError('internal', '')), 1)
  assert.equal(exitCodeOf(new Error('x')), 1)
  assert.equal(exitCodeOf(undefined), 1)
})
