import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { z } from 'zod'
import { estOperations } from '../contract/configuration.ts'
import { denialStages, ownProblems } from '../contract/denials.ts'
import { brokerMetrics, enrollMetrics, ocspAnswers } from '../contract/metrics.ts'
import { type ProblemCode, problems } from '../contract/problems.ts'
import { Metrics } from '../runtime/metrics.ts'
import { parseYaml } from '../runtime/yaml.ts'

const root = dirname(import.meta.dirname)
const read = (path: string): string => readFileSync(join(root, path), 'utf8')
const yaml = <S extends z.ZodType>(path: string, schema: S): z.output<S> =>
  parseYaml(read(path), schema, path, 'config_invalid')

const alert = z.strictObject({
  alert: z.string().regex(/^Fleetgate[A-Z]\w+$/),
  expr: z.string(),
  for: z.string().optional(),
  labels: z.strictObject({ severity: z.enum(['page', 'ticket']) }),
  annotations: z.strictObject({ summary: z.string(), meaning: z.string().min(40), first: z.string() }),
})
const { groups } = yaml(
  'deploy/prometheus/alerts.yml',
  z.strictObject({ groups: z.array(z.strictObject({ name: z.string(), rules: z.array(alert) })) }),
)
const alerts = groups.flatMap(({ rules }) => rules)

const source = z.strictObject({ type: z.literal('prometheus'), uid: z.literal('$' + '{datasource}') })
const target = z.strictObject({ refId: z.string(), datasource: source, expr: z.string(), legendFormat: z.string() })
const panel = z.looseObject({
  id: z.int(),
  type: z.enum(['row', 'stat', 'timeseries']),
  title: z.string().min(1),
  gridPos: z.strictObject({ x: z.int().min(0), y: z.int().min(0), w: z.int().min(1), h: z.int().min(1) }),
  datasource: source.optional(),
  targets: z.array(target).default([]),
})
const dashboard = z
  .looseObject({
    uid: z.string(),
    title: z.string(),
    schemaVersion: z.int().min(36),
    templating: z.object({
      list: z.array(z.looseObject({ name: z.string(), type: z.enum(['datasource', 'query']), query: z.unknown() })),
    }),
    annotations: z.object({ list: z.array(z.looseObject({ datasource: source, expr: z.string() })) }),
    panels: z.array(panel),
  })
  .parse(JSON.parse(read('deploy/grafana/fleetgate.json')))
const queries = dashboard.panels.flatMap(({ title, targets }) => targets.map((query) => ({ title, ...query })))
const variables = dashboard.templating.list

const testCases = yaml(
  'deploy/prometheus/alerts.test.yml',
  z.looseObject({
    tests: z.array(
      z.looseObject({ input_series: z.array(z.strictObject({ series: z.string(), values: z.unknown() })) }),
    ),
  }),
)

/** Series -> its labels, as Prometheus has them. */
const series = new Map<string, string[]>()
for (const [name, { type, labels }] of Object.entries({ ...brokerMetrics, ...enrollMetrics })) {
  if (type === 'histogram') {
    series.set(`${name}_bucket`, [...labels, 'le'])
    for (const suffix of ['sum', 'count']) series.set(`${name}_${suffix}`, [...labels])
  } else series.set(name, [...labels])
}
for (const [, name] of (await new Metrics({}, () => {}).text()).matchAll(/^# TYPE (\w+) /gm)) series.set(name!, [])
const ofTarget = ['job', 'instance']

const codes = Object.keys(problems)
const valuesOf: Record<string, readonly string[]> = {
  cause: codes,
  outcome: ['ok', 'pending', ...codes],
  stage: denialStages,
  answer: ocspAnswers,
  operation: [...estOperations, 'other'],
  part: ['feed', 'certificate', 'store'],
  state: ['handshaken', 'connecting', 'live', 'quarantined'],
  job: ['fleetgate-broker', 'fleetgate-enroll', 'fleetgate-.*', 'somebody-else'],
}
const isVariable = (value: string): boolean => value.startsWith('$')

/** What stands in a PromQL expression and is not there. */
function unknownIn(expr: string): string[] {
  const faults: string[] = []
  const labelsThere = new Set(ofTarget)
  for (const [, name, matchers = ''] of expr.matchAll(/\b((?:fleetgate|process|nodejs)_\w+)(\{[^}]*\})?/g)) {
    const labels = [...(series.get(name!) ?? []), ...ofTarget]
    if (!series.has(name!)) faults.push(name!)
    for (const label of labels) labelsThere.add(label)
    for (const [, label, value] of matchers.matchAll(/(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"/g)) {
      if (!labels.includes(label!)) faults.push(`${name}{${label}}`)
      for (const one of value!.split('|'))
        if (!isVariable(one) && valuesOf[label!]?.includes(one) === false) faults.push(`${label}="${one}"`)
    }
  }
  for (const [, list] of expr.matchAll(/\b(?:by|on)\s*\(([^)]*)\)/g))
    for (const label of list!.split(',').map((one) => one.trim()))
      if (!labelsThere.has(label)) faults.push(`by (${label})`)
  return faults
}

/** The labels that a result of the expression has. */
function labelsOf(expr: string): string[] {
  const group = /\bby \(([^)]*)\)/.exec(expr)?.[1]
  if (group !== undefined) return group.split(', ')
  if (/\b(?:sum|count|min|max)\(/.test(expr)) return []
  const names = [...expr.matchAll(/\b(?:fleetgate|process|nodejs)_\w+/g)].map(([name]) => name)
  return [...ofTarget, ...names.flatMap((name) => series.get(name) ?? [])]
}

test('rules and dashboard ask for metrics, labels and values that there are', () => {
  const annotations = dashboard.annotations.list.map(({ expr }) => expr)
  const choices = variables.flatMap(({ query }) => JSON.stringify(query).match(/fleetgate_\w+/g) ?? [])
  const inputs = testCases.tests.flatMap((one) => one.input_series.map((input) => input.series))
  const expressions = [...alerts, ...queries].map(({ expr }) => expr).concat(annotations, choices, inputs)
  assert.deepEqual([...new Set(expressions.flatMap(unknownIn))], [])
  assert.deepEqual(
    unknownIn('sum by (topic) (fleetgate_broker_refusals_total{device="x",cause="bad"}) + fleetgate_no'),
    ['fleetgate_broker_refusals_total{device}', 'cause="bad"', 'fleetgate_no', 'by (topic)'],
  )
})

test('an alert and a legend name only labels that the result of their expression has', () => {
  for (const { alert: name, expr, annotations } of alerts)
    for (const [, label] of annotations.summary.matchAll(/\$labels\.(\w+)/g))
      assert.ok(labelsOf(expr).includes(label!), `${name}: ${label}`)
  for (const { title, expr, legendFormat } of queries)
    for (const [, label] of legendFormat.matchAll(/\{\{(\w+)\}\}/g))
      assert.ok(labelsOf(expr).includes(label!), `${title}: ${label}`)
})

test('each alert has a case that it fires in, and its row in operations.md', () => {
  const cases = read('deploy/prometheus/alerts.test.yml')
  for (const { alert: name } of alerts) assert.match(cases, new RegExp(`alertname(?:: |=")${name}\\b`), name)
  const rows = [...read('docs/operations.md').matchAll(/^\| `(Fleetgate\w+)` \| (\w+) \| .{20,} \| `([^`]+)` \|$/gm)]
  assert.deepEqual(
    rows.map(([, ...row]) => row),
    alerts.map(({ alert: name, labels, annotations }) => [name, labels.severity, annotations.first]),
  )
})

test('requests that fail by our own fault are all in the alert for them', () => {
  const { expr } = alerts.find(({ alert: name }) => name === 'FleetgateEnrollFails')!
  const own = new Set<string>(ownProblems)
  const faults = codes.filter((code) => problems[code as ProblemCode].status >= 500 && !own.has(code))
  assert.deepEqual(/outcome=~"([^"]*)"/.exec(expr)![1]!.split('|').sort(), faults.sort())
})

test('the panels of the dashboard have ids of their own, fit the grid, and use variables that it declares', () => {
  const ids = dashboard.panels.map(({ id }) => id)
  assert.equal(new Set(ids).size, ids.length)
  const taken = new Set<string>()
  for (const { title, type, gridPos, targets, datasource } of dashboard.panels) {
    const { x, y, w, h } = gridPos
    assert.ok(x + w <= 24, title)
    for (let at = 0; at < w * h; at++) {
      const cell = `${x + (at % w)},${y + Math.floor(at / w)}`
      assert.ok(!taken.has(cell), `${title} lies over another panel at ${cell}`)
      taken.add(cell)
    }
    if (type === 'row') continue
    assert.ok(targets.length > 0 && datasource !== undefined, title)
    assert.equal(new Set(targets.map(({ refId }) => refId)).size, targets.length, title)
  }
  const names = [...variables.map(({ name }) => name), '__rate_interval', '__interval']
  const used = JSON.stringify(dashboard).matchAll(/\$\{?(\w+)/g)
  assert.deepEqual(
    [...new Set([...used].map(([, name]) => name!))].filter((name) => name !== '__all' && !names.includes(name)),
    [],
  )
})

test('no unit runs as root: in a folder of somebody else it would follow whatever link is there', () => {
  const folder = join(root, 'deploy', 'systemd')
  for (const name of readdirSync(folder).filter((file) => file.endsWith('.service'))) {
    const unit = readFileSync(join(folder, name), 'utf8')
    assert.match(unit, /^User=fleetgate-(?:enroll|broker)$/m, name)
    assert.match(unit, /^CapabilityBoundingSet=$/m, name)
    assert.doesNotMatch(unit, /^Exec\w+=[-:]*[+!]/m, name)
  }
})
