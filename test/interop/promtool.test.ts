/** The rules of deploy/prometheus as Prometheus reads them, and what the services say of themselves. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { freePorts } from '../harness/stub-gateway.ts'
import { Gateway, needs, root } from './gateway.ts'

const folder = join(root, 'deploy', 'prometheus')
const promtool = (...args: string[]): Promise<{ stdout: string }> =>
  promisify(execFile)('promtool', args, { cwd: folder, timeout: 60_000 })

test('promtool takes the configuration and its rules', needs('promtool'), async () => {
  const { stdout } = await promtool('check', 'config', 'prometheus.yml')
  assert.match(stdout, /prometheus\.yml is valid/)
  assert.match(stdout, /SUCCESS: \d\d rules found/)
})

test('each alert fires when it has to, and none when all is well', needs('promtool'), async () => {
  const { stdout } = await promtool('test', 'rules', 'alerts.test.yml')
  assert.match(stdout, /SUCCESS/)
})

test('promtool takes every query of the dashboard', needs('promtool'), async (t) => {
  const at = mkdtempSync(join(tmpdir(), 'fleetgate-promtool-'))
  t.after(() => rmSync(at, { recursive: true }))
  const { panels } = JSON.parse(readFileSync(join(root, 'deploy', 'grafana', 'fleetgate.json'), 'utf8'))
  const rules = panels
    .flatMap(({ targets = [] }: { targets?: { expr: string }[] }) => targets)
    .map(({ expr }: { expr: string }, n: number) => ({
      record: `query:${n}`,
      expr: expr.replaceAll(/\$__(?:rate_)?interval/g, '5m'),
    }))
  writeFileSync(join(at, 'queries.yml'), JSON.stringify({ groups: [{ name: 'dashboard', rules }] }))
  const { stdout } = await promtool('check', 'rules', join(at, 'queries.yml'))
  assert.match(stdout, new RegExp(`SUCCESS: ${rules.length} rules found`))
})

test(
  'what a gateway tells has the form and the names that Prometheus asks for',
  needs('promtool', 'curl'),
  async () => {
    const [broker, enroll] = (await freePorts(2)).map((port) => `127.0.0.1:${port}`)
    const yaml = `{ broker: { metrics: "${broker}" }, enroll: { metrics: "${enroll}" } }`
    await using gateway = await Gateway.start('auto', yaml)
    for (const address of [broker, enroll]) {
      await gateway.mustRun('curl', '-sS', '-f', '-o', 'metrics', `http://${address}/metrics`)
      assert.match(readFileSync(gateway.path('metrics'), 'utf8'), /^fleetgate_\w+_ready\{part="store"\} 1$/m)
      const lint = await gateway.run('sh', '-c', 'promtool check metrics < metrics')
      // It does not like all names of Node's own, and ends with 3.
      const ours = (lint.out + lint.err).split('\n').filter((line) => !/^(?:nodejs|process)_|^$/.test(line))
      assert.deepEqual(ours, [])
    }
  },
)
