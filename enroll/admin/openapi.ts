/** The admin API as an OpenAPI 3.1 document, printed from the table of routes and the schemas of the contract. */
import { z } from 'zod'
import * as adminApi from '../../contract/admin-api.ts'
import * as authorityApi from '../../contract/authority-api.ts'
import * as batchApi from '../../contract/batch-api.ts'
import * as brokerApi from '../../contract/broker-api.ts'
import * as bulkApi from '../../contract/bulk-api.ts'
import * as verdicts from '../../contract/certificate-verdicts.ts'
import * as denials from '../../contract/denials.ts'
import * as incidents from '../../contract/incidents.ts'
import * as lateRenewalApi from '../../contract/late-renewal-api.ts'
import * as operatorApi from '../../contract/operator-api.ts'
import * as policy from '../../contract/policy-document.ts'
import { type ProblemCode, problems } from '../../contract/problems.ts'
import * as sessionApi from '../../contract/session-api.ts'
import * as verifyApi from '../../contract/verify-api.ts'
import { type Route, route } from './route.ts'

type Schema = { [key: string]: unknown }

/** What any request may meet: faults of a credential, and of the service. */
const always: readonly ProblemCode[] = [
  'certificate_missing',
  'certificate_self_signed',
  'certificate_untrusted',
  'certificate_expired',
  'certificate_not_yet_valid',
  'certificate_unregistered',
  'certificate_revoked',
  'forbidden',
  'operator_disabled',
  'api_token_invalid',
  'api_token_expired',
  'role_insufficient',
  'too_many_requests',
  'request_malformed',
  'internal',
  'unavailable',
  'data_damaged',
]
const ofWrites: readonly ProblemCode[] = ['conflict', 'outcome_unknown', 'body_too_large', 'media_type_unsupported']

/** Every code that an answer to this row may have. */
export const codesOf = ({ method, problems: own = [] }: Route): ProblemCode[] => [
  ...new Set([...always, ...(method === 'GET' ? [] : ofWrites), ...own]),
]

/** The rows, and one more that describes all of them. */
export function described(rows: readonly Route[]): readonly Route[] {
  let document: Schema | undefined
  const own = route({
    method: 'GET',
    path: '/v1/openapi.json',
    role: 'viewer',
    summary: 'This document',
    answer: z.looseObject({ openapi: z.string() }),
    handle: async () => {
      document ??= openApiOf(all)
      return document as { openapi: string }
    },
  })
  const all = [...rows, own]
  return all
}

export function openApiOf(rows: readonly Route[]): Schema {
  const components: Record<string, Schema> = { problem }
  const named = nameSchemas()
  const schemaOf = (schema: z.ZodType, io: 'input' | 'output'): Schema => {
    const {
      $schema: _,
      $defs = {},
      ...rest
    } = z.toJSONSchema(schema, {
      ...{ metadata: named, io, target: 'draft-2020-12', unrepresentable: 'any' },
    }) as Schema & { $defs?: Record<string, Schema> }
    for (const [name, definition] of Object.entries($defs)) components[name] = located(definition, io)
    return located(rest, io)
  }
  const paths: Record<string, Record<string, Schema>> = {}
  for (const row of rows) {
    const path = row.path.replaceAll(/:(\w+)/g, '{$1}')
    paths[path] ??= {}
    paths[path][row.method.toLowerCase()] = operationOf(row, schemaOf)
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'Fleetgate admin API',
      version: 'v1',
      description:
        'Times are ISO 8601 in UTC. Fields are added, never renamed. Each operation names the least role that may ask it (`x-role`): each role may do what those before it may, in the order viewer, enroller, operator, admin. Where `x-role-for-others` stands beside it, that is wanted of whoever is not the operator in the path. A failure is a problem of RFC 9457, known by its code.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: 'https://localhost:9443', description: 'Where enroll.admin listens' }],
    security: [{ certificate: [] }, { token: [] }],
    paths,
    components: {
      schemas: components,
      responses: Object.fromEntries(
        [...common].map(([status, codes]) => [`problem-${status}`, problemResponse(codes)]),
      ),
      parameters: { idempotencyKey, ifMatch },
      securitySchemes: {
        certificate: { type: 'mutualTLS', description: 'The certificate of an operator: fleetgate operator create' },
        token: { type: 'http', scheme: 'bearer', description: 'An API token: fleetgate api-token create' },
      },
    },
  }
}

const idempotencyKey = {
  name: 'Idempotency-Key',
  in: 'header',
  description: 'The same key has one effect and one answer, for 7 days',
  schema: { type: 'string', pattern: '^[A-Za-z0-9-]{8,64}$' },
}

const ifMatch = {
  name: 'If-Match',
  in: 'header',
  description: 'The ETag of the same path: of another revision it is not changed',
  schema: { type: 'string', pattern: '^"[0-9]{1,15}"$' },
}

const problem: Schema = {
  type: 'object',
  description: 'RFC 9457; docs/errors.md has what to do about each code',
  required: ['type', 'title', 'status', 'detail', 'code'],
  properties: {
    type: { type: 'string', format: 'uri' },
    title: { type: 'string' },
    status: { type: 'integer' },
    detail: { type: 'string' },
    instance: { type: 'string', description: 'Id of the request, as in the log' },
    code: { type: 'string' },
  },
}

function operationOf(row: Route, schemaOf: (schema: z.ZodType, io: 'input' | 'output') => Schema): Schema {
  const { method, path, role, summary, status = 200, query, body, answer } = row
  const words = path
    .split('/')
    .slice(2)
    .map((part) => (part.startsWith(':') ? `by-${part.slice(1)}` : part.replace('.json', '')))
  const operationId = [method.toLowerCase(), ...words]
    .join('-')
    .replaceAll(/-(\w)/g, (_, letter: string) => letter.toUpperCase())
  const parameters = [
    ...[...path.matchAll(/:(\w+)/g)].map(([, name]) => ({
      ...{ name, in: 'path', required: true, schema: { type: 'string' } },
    })),
    ...(query === undefined ? [] : queryParameters(schemaOf(query, 'input'))),
    ...(method === 'GET' ? [] : [{ $ref: '#/components/parameters/idempotencyKey' }]),
    ...(row.conditional ? [{ $ref: '#/components/parameters/ifMatch' }] : []),
  ]
  return {
    operationId,
    summary,
    tags: [path.split('/')[2]!.replace('.json', '')],
    'x-role': role,
    ...(row.roleForOthers === undefined ? {} : { 'x-role-for-others': row.roleForOthers }),
    ...(parameters.length > 0 ? { parameters } : {}),
    ...(body === undefined
      ? {}
      : { requestBody: { required: true, content: { 'application/json': { schema: schemaOf(body, 'input') } } } }),
    responses: {
      [status]: {
        description: 'Done',
        content: { [row.media ?? 'application/json']: { schema: schemaOf(answer, 'output') } },
      },
      ...problemResponses(codesOf(row)),
    },
  }
}

function queryParameters(schema: Schema): Schema[] {
  const { properties = {}, required = [] } = schema as { properties?: Record<string, Schema>; required?: string[] }
  return Object.entries(properties).map(([name, { description, ...rest }]) => ({
    name,
    in: 'query',
    required: required.includes(name),
    ...(description === undefined ? {} : { description }),
    schema: rest,
  }))
}

const byStatus = (codes: readonly ProblemCode[]): [string, ProblemCode[]][] =>
  Object.entries(Object.groupBy(codes, (code) => problems[code].status)).map(([status, some = []]) => [status, some])

/** What every operation has in common is told once. */
const common = new Map(byStatus(always))

const problemResponses = (codes: readonly ProblemCode[]): Schema =>
  Object.fromEntries(
    byStatus(codes).map(([status, some]) => [
      status,
      some.length === common.get(status)?.length
        ? { $ref: `#/components/responses/problem-${status}` }
        : problemResponse(some),
    ]),
  )

const problemResponse = (codes: ProblemCode[]): Schema => ({
  description: codes.map((code) => `\`${code}\`: ${problems[code].title}`).join('; '),
  content: {
    'application/problem+json': {
      schema: {
        allOf: [{ $ref: '#/components/schemas/problem' }, { properties: { code: { enum: codes.toSorted() } } }],
      },
    },
  },
})

/** Schemas that the contract exports are named as they are there. */
function nameSchemas(): z.core.$ZodRegistry<{ id: string }> {
  const registry = z.registry<{ id: string }>()
  const modules = [
    ...[
      adminApi,
      authorityApi,
      batchApi,
      brokerApi,
      bulkApi,
      denials,
      incidents,
      lateRenewalApi,
      operatorApi,
      policy,
      sessionApi,
    ],
    ...[verdicts, verifyApi],
  ]
  for (const [id, schema] of modules.flatMap((module) => Object.entries(module))) {
    if (schema instanceof z.ZodObject) registry.add(schema, { id })
  }
  return registry
}

/** For readers of answers: fields are added, and who checks must not refuse them. */
function located(schema: Schema, io: 'input' | 'output'): Schema {
  return JSON.parse(JSON.stringify(schema), (key, value) => {
    if (io === 'output' && key === 'additionalProperties' && value === false) return undefined
    return key === '$ref' ? String(value).replace('#/$defs/', '#/components/schemas/') : value
  })
}
