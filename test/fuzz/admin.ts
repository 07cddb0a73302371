/**
 * Requests made from the OpenAPI document against a real admin API: every operation, with every role and none, with what its
 * schemas allow and with wrong types and sizes. No answer is a 500 or undocumented, and nothing is reached below its role.
 *
 *   npm run fuzz -- admin [--seconds 60] [--seed 1]
 */
import assert from 'node:assert/strict'
import { Agent, request } from 'node:https'
import { parseArgs } from 'node:util'
import fc from 'fast-check'
import { includesRole, type Role, roles } from '../../contract/operator-api.ts'
import { openApiOf } from '../../enroll/admin/openapi.ts'
import { routes } from '../../enroll/admin/table.ts'
import { EnrollHarness, requireDocumented } from '../harness/fleet.ts'

type Schema = {
  $ref?: string
  type?: string
  enum?: unknown[]
  const?: unknown
  anyOf?: Schema[]
  allOf?: Schema[]
  properties?: Record<string, Schema>
  required?: string[]
  additionalProperties?: Schema | boolean
  items?: Schema
  minimum?: number
  maximum?: number
}
type Operation = {
  'x-role': Role
  'x-role-for-others'?: Role
  parameters?: { $ref?: string; name: string; in: string; schema: Schema }[]
  requestBody?: { content: { 'application/json': { schema: Schema } } }
}
type Document = { paths: Record<string, Record<string, Operation>>; components: { schemas: Record<string, Schema> } }
type Sent = {
  role: Role | 'none'
  method: string
  path: string
  query: string
  headers: Record<string, string>
  body?: string
}
type Seen = { status: number; body: string }

const document = JSON.parse(JSON.stringify(openApiOf(routes))) as Document
const operations = Object.entries(document.paths).flatMap(([path, byMethod]) =>
  Object.entries(byMethod).map(([method, operation]) => ({ path, method: method.toUpperCase(), operation })),
)

const hostile = [
  '',
  'x',
  '..',
  '%00',
  '__proto__',
  'constructor',
  '\ud800',
  '\u202e',
  'ä b',
  `${'9'.repeat(400)}`,
  '*',
  '$where',
  '0a0b',
]
const known = ['cam-1', 'cam-2', 'nobody', 'camera', 'hall', 'operator', 'fleetgate']
const text = fc.oneof(
  fc.constantFrom(...known),
  fc.constantFrom(...hostile),
  fc.string({ maxLength: 40, unit: 'binary' }),
)
const wrong = fc.oneof(
  fc.constantFrom<unknown>(null, true, -1, 0, 1.5, 1e308, '', [], {}, [[]], { a: { a: { a: {} } } }),
  fc.string({ maxLength: 20 }),
  fc.constant('x'.repeat(5_000)),
  fc.constant(Array.from({ length: 2_000 }, () => 'x')),
)

/** Mostly what the schema allows, now and then not. */
function shaped(schema: Schema, name = '', depth = 0): fc.Arbitrary<unknown> {
  if (schema.$ref !== undefined)
    return shaped(document.components.schemas[schema.$ref.split('/').at(-1)!]!, name, depth)
  const right = (): fc.Arbitrary<unknown> => {
    // A request that waits as long as it may says no more than one that does not.
    if (name === 'waitMs') return fc.constant(0)
    if (schema.enum !== undefined) return fc.constantFrom(...schema.enum)
    if (schema.const !== undefined) return fc.constant(schema.const)
    if (schema.anyOf !== undefined) return fc.oneof(...schema.anyOf.map((one) => shaped(one, name, depth + 1)))
    if (schema.type === 'integer' || schema.type === 'number') {
      const { minimum = 0, maximum = 1_000 } = schema
      return fc.oneof(fc.integer({ min: minimum, max: Math.min(maximum, minimum + 1_000) }), fc.constant(maximum))
    }
    if (schema.type === 'boolean') return fc.boolean()
    if (schema.type === 'array') return fc.array(shaped(schema.items ?? {}, '', depth + 1), { maxLength: 3 })
    if (schema.type === 'object' && depth < 6) {
      const fields = Object.entries(schema.properties ?? {}).map(
        ([key, one]) => [key, shaped(one, key, depth + 1)] as const,
      )
      const requiredKeys = (schema.required ?? []).filter((key) => schema.properties?.[key] !== undefined)
      const object = fc.record(Object.fromEntries(fields), { requiredKeys })
      if (typeof schema.additionalProperties !== 'object') return object
      return fc.dictionary(text, shaped(schema.additionalProperties, '', depth + 1), { maxKeys: 3 })
    }
    return text
  }
  return fc.oneof({ weight: 12, arbitrary: right() }, { weight: 1, arbitrary: wrong })
}

const requestOf = ({ path, method, operation }: (typeof operations)[number]): fc.Arbitrary<Sent> => {
  const schema = operation.requestBody?.content['application/json'].schema
  const queries = (operation.parameters ?? []).filter((parameter) => parameter.in === 'query')
  return fc.record({
    role: fc.constantFrom<Role | 'none'>(...roles, ...roles, 'none'),
    method: fc.constantFrom(...(method === 'GET' ? ['GET', 'GET', 'HEAD'] : [method])),
    path: fc.array(text, { minLength: 3, maxLength: 3 }).map((ids) => {
      let at = 0
      return path.replaceAll(/\{\w+\}/g, () => encodeURIComponent(ids[at++]!.toWellFormed()))
    }),
    query: fc
      .tuple(
        ...queries.map(({ name, schema: one }) => fc.option(shaped(one, name), { freq: 2 })),
        fc.oneof({ weight: 9, arbitrary: fc.constant(null) }, { weight: 1, arbitrary: text }),
      )
      .map((values) => {
        const parameters = new URLSearchParams()
        const names = [...queries.map(({ name }) => name), 'extra']
        for (const [at, value] of values.entries()) {
          if (value !== null && value !== undefined) parameters.append(names[at]!, String(value).slice(0, 2_000))
        }
        return parameters.toString()
      }),
    headers: fc.record(
      {
        'content-type': fc.constantFrom(...Array(8).fill('application/json'), 'text/plain', ''),
        'idempotency-key': fc.oneof(fc.uuid(), fc.constantFrom('same-key-0001', 'x', '')),
        'if-match': fc.oneof(
          { weight: 9, arbitrary: fc.constant(undefined) },
          { weight: 1, arbitrary: fc.constantFrom('"1"', '"2"', '*', 'x', '"x", "y"') },
        ),
        'last-event-id': fc.constantFrom('0', '1', '-1', 'x', '99999999999999999999'),
      },
      { requiredKeys: ['content-type'] },
    ),
    ...(schema === undefined
      ? {}
      : {
          body: fc.oneof(
            { weight: 12, arbitrary: shaped(schema).map((value) => JSON.stringify(value)) },
            { weight: 1, arbitrary: fc.string({ maxLength: 200 }) },
            { weight: 1, arbitrary: fc.constant('['.repeat(20_000)) },
            { weight: 1, arbitrary: fc.constant('{"__proto__":{"id":"x"},"constructor":{"prototype":{}}}') },
          ),
        }),
  }) as fc.Arbitrary<Sent>
}

export class AdminFuzz implements AsyncDisposable {
  readonly statuses = new Map<string, number>()
  readonly #fleet: EnrollHarness
  readonly #agent: Agent
  readonly #tokens: Record<Role, string>

  private constructor(fleet: EnrollHarness, tokens: Record<Role, string>) {
    this.#fleet = fleet
    this.#tokens = tokens
    this.#agent = new Agent({ keepAlive: true, ca: fleet.root })
  }

  static async start(): Promise<AdminFuzz> {
    const fleet = await EnrollHarness.start()
    await fleet.enrolledDevice('cam-1', { groups: ['hall'] })
    const tokens = {} as Record<Role, string>
    for (const role of roles) {
      tokens[role] = (await fleet.admin('POST', '/api-tokens', { name: `the-fuzz-${role}`, role })).body.token
    }
    return new AdminFuzz(fleet, tokens)
  }

  /** @throws what fast-check shrank a failing request to */
  async run(options: { runs: number; seconds: number; seed: number }): Promise<void> {
    const { runs, seconds, seed } = options
    const until = performance.now() + seconds * 1_000
    for (let round = 0; performance.now() < until && (round === 0 || runs === Number.POSITIVE_INFINITY); round++) {
      for (const operation of operations) {
        if (performance.now() >= until) break
        const property = fc.asyncProperty(requestOf(operation), (sent) =>
          // Nobody who asks here is an operator: tokens are for programs.
          this.#check(sent, operation.operation['x-role-for-others'] ?? operation.operation['x-role']),
        )
        await fc.assert(property, {
          numRuns: Math.min(runs, 20),
          seed: seed + round,
          interruptAfterTimeLimit: seconds * 1_000,
        })
      }
    }
  }

  async #check(sent: Sent, wanted: Role): Promise<void> {
    const { status, body } = await this.#send(sent)
    const line = `${sent.role} ${status}`
    this.statuses.set(line, (this.statuses.get(line) ?? 0) + 1)
    assert.notEqual(status, 500, body)
    if (sent.role === 'none') assert.equal(status, 401)
    else if (!includesRole(sent.role, wanted)) assert.equal(status, 403)
    else if (status === 403) assert.doesNotMatch(body, /role_insufficient/)
    if (sent.method === 'HEAD' || body === '') return
    requireDocumented(sent.method, sent.path, status, JSON.parse(body))
  }

  /** @returns an empty body of a stream, which has no end */
  #send({ role, method, path, query, headers, body }: Sent): Promise<Seen> {
    const { hostname, port } = new URL(this.#fleet.endpoints.admin)
    const authorization: Record<string, string> =
      role === 'none' ? {} : { authorization: `Bearer ${this.#tokens[role]}` }
    const { 'content-type': type, ...rest } = headers
    const given = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined))
    const own = { ...given, ...authorization, ...(body === undefined || type === '' ? {} : { 'content-type': type! }) }
    return new Promise((resolve, reject) => {
      // Not as a URL, in which `..` would mean something.
      const to = { hostname, port, path: `${path}?${query}`, method, headers: own, agent: this.#agent }
      const asked = request(to, (response) => {
        const status = response.statusCode!
        if (response.headers['content-type'] === 'text/event-stream') {
          asked.destroy()
          resolve({ status, body: '' })
          return
        }
        let answer = ''
        response.setEncoding('utf8').on('data', (chunk: string) => {
          answer += chunk
        })
        response.on('end', () => resolve({ status, body: answer }))
      })
      asked.on('error', reject)
      asked.end(body)
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#agent.destroy()
    await this.#fleet[Symbol.asyncDispose]()
  }
}

if (process.argv[1] === import.meta.filename) {
  const { values } = parseArgs({ options: { seconds: { type: 'string' }, seed: { type: 'string' } } })
  const seconds = Number(values.seconds ?? 60)
  const seed = Number(values.seed ?? 1)
  await using fuzz = await AdminFuzz.start()
  await fuzz.run({ runs: Number.POSITIVE_INFINITY, seconds, seed })
  const requests = [...fuzz.statuses.values()].reduce((sum, count) => sum + count, 0)
  console.log(`${requests} requests to ${operations.length} operations, seed ${seed}, ${seconds} s`)
  for (const [line, count] of [...fuzz.statuses].toSorted()) console.log(`  ${line.padEnd(14)} ${count}`)
}
