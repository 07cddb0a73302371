import assert from 'node:assert/strict'
import { test } from 'node:test'
import { problems } from '../../../contract/problems.ts'
import { codesOf, openApiOf } from '../../../enroll/admin/openapi.ts'
import { routes } from '../../../enroll/admin/table.ts'

type Operation = {
  operationId: string
  'x-role': string
  'x-role-for-others'?: string
  parameters?: { name: string; in: string; required: boolean }[]
  requestBody?: unknown
  responses: Record<string, unknown>
}
const document = JSON.parse(JSON.stringify(openApiOf(routes))) as {
  openapi: string
  paths: Record<string, Record<string, Operation>>
}

function* refsIn(value: unknown): Generator<string> {
  if (typeof value !== 'object' || value === null) return
  for (const [key, inner] of Object.entries(value)) {
    if (key === '$ref') yield inner
    else yield* refsIn(inner)
  }
}

test('the OpenAPI document has every route of the table with its role, body, answer and codes, and nothing else', () => {
  assert.equal(document.openapi, '3.1.0')
  const operations = Object.entries(document.paths).flatMap(([path, byMethod]) =>
    Object.entries(byMethod).map(([method, operation]) => ({ path, method: method.toUpperCase(), operation })),
  )
  assert.equal(operations.length, routes.length)
  for (const row of routes) {
    const path = row.path.replaceAll(/:(\w+)/g, '{$1}')
    const operation = document.paths[path]![row.method.toLowerCase()]!
    assert.equal(operation['x-role'], row.role, row.path)
    assert.equal(operation['x-role-for-others'], row.roleForOthers, row.path)
    assert.equal(operation.requestBody !== undefined, row.body !== undefined, row.path)
    assert.ok(operation.responses[row.status ?? 200] !== undefined, row.path)
    for (const code of codesOf(row)) assert.ok(operation.responses[problems[code].status], `${row.path} ${code}`)
    const inPath = (operation.parameters ?? []).filter((parameter) => parameter.in === 'path' && parameter.required)
    assert.deepEqual(
      inPath.map(({ name }) => name),
      [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name),
    )
  }
  const ids = operations.map(({ operation }) => operation.operationId)
  assert.equal(new Set(ids).size, ids.length)
})

test('every reference in it leads to something in it', () => {
  const refs = new Set(refsIn(document))
  assert.ok(refs.size > 50)
  for (const ref of refs) {
    const found = ref
      .slice('#/'.length)
      .split('/')
      .reduce<unknown>((at, key) => (at as Record<string, unknown> | undefined)?.[key], document)
    assert.ok(ref.startsWith('#/') && found !== undefined, ref)
  }
})
