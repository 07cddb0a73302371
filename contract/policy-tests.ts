/** A table of what a policy is expected to say, as `fleetgate policy test` runs it. */
import { z } from 'zod'
import type { PolicyDocument } from './policy-document.ts'
import { askPolicy, explainPolicy, type Question } from './policy-explain.ts'
import { isFactName, type PrincipalFacts, unknownName } from './principal-facts.ts'

const values = z
  .union([z.string(), z.array(z.string())])
  .transform((given) => (typeof given === 'string' ? [given] : given))

/** A principal as a person writes it: each name with a value or several. */
export const writtenFacts = z
  .custom<Record<string, string | string[]>>(
    (input) => typeof input === 'object' && input !== null && !Array.isArray(input),
    'names with their values are wanted',
  )
  .superRefine((input, context) => {
    for (const name of Object.keys(input)) {
      if (!isFactName(name) && name !== 'issuer')
        context.addIssue({ code: 'custom', path: [name], message: unknownName(name) })
    }
  })
  .pipe(z.record(z.string(), values))
  .transform((facts): PrincipalFacts => facts)

const expectation = z
  .strictObject({
    as: z.string().describe('One of the principals'),
    publish: z.string().optional().describe('Topic'),
    subscribe: z.string().optional().describe('Topic filter'),
    receive: z.string().optional().describe('Topic of a message that a subscription matched'),
    qos: z.literal([0, 1, 2]).default(0),
    retain: z.boolean().default(false),
    bytes: z.int().min(0).default(0).describe('Of the payload'),
    expect: z.enum(['allow', 'deny']),
    by: z.string().optional().describe('The statement that decides'),
  })
  .refine(
    ({ publish, subscribe, receive }) =>
      [publish, subscribe, receive].filter((text) => text !== undefined).length === 1,
    'one of publish, subscribe and receive is wanted',
  )

export const policyTests = z
  .strictObject({
    policy: z.string().optional().describe('File, from the folder of this one; without it, what the command names'),
    principals: z.record(z.string(), writtenFacts),
    tests: z.array(expectation).min(1),
  })
  .superRefine(({ principals, tests }, context) => {
    for (const [at, { as }] of tests.entries()) {
      if (Object.hasOwn(principals, as)) continue
      context.addIssue({ code: 'custom', path: ['tests', at, 'as'], message: `${as} is none of the principals` })
    }
  })
export type PolicyTests = z.output<typeof policyTests>

/** @returns one sentence for each that failed, by its place in the table */
export function runPolicyTests(document: PolicyDocument, { principals, tests }: PolicyTests): Map<number, string> {
  const failures = new Map<number, string>()
  for (const [at, test] of tests.entries()) {
    const facts = principals[test.as]!
    const question = questionOf(test)
    const { allowed, statement } = askPolicy(document, facts, question)
    const isRight = allowed === (test.expect === 'allow') && (test.by === undefined || test.by === statement)
    if (isRight) continue
    const { because } = explainPolicy(document, facts, question)
    const wanted = `${test.expect}${test.by === undefined ? '' : ` by ${test.by}`}`
    failures.set(at, `${test.as} ${question.action} ${question.topic}: ${wanted} was expected, but ${because}`)
  }
  return failures
}

function questionOf({ publish, subscribe, receive, qos, retain, bytes }: PolicyTests['tests'][number]): Question {
  if (publish !== undefined) return { action: 'publish', topic: publish, qos, retain, bytes }
  return subscribe === undefined ? { action: 'receive', topic: receive! } : { action: 'subscribe', topic: subscribe }
}
