/** A part of the enrollment service that does one thing in a process of its own and tells its parent what came of it. */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { type ProblemCode, problems } from '../contract/problems.ts'
import { FleetError } from '../runtime/errors.ts'

type Answer = { kind: string; code: string; message: string; summary: unknown }

/** @returns what it said, or `undefined` when it ended without a word */
export const answerOf = (child: ChildProcess): Promise<Answer | undefined> =>
  Promise.race([
    once(child, 'message').then(([message]) => message as Answer),
    once(child, 'close').then(() => undefined),
  ])

/**
 * @param what it was to do
 * @returns what it found, as it was sent
 * @throws FleetError what it was refused by, `internal` when it did not say
 */
export function requireAnswer(answer: Answer | undefined, what: string): unknown {
  if (answer === undefined)
    throw new FleetError('internal', `the ${what} ended without a word; look at what it wrote above`)
  if (answer.kind !== 'failed') return answer.summary
  throw new FleetError(Object.hasOwn(problems, answer.code) ? (answer.code as ProblemCode) : 'internal', answer.message)
}
