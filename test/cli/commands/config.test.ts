import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { fleetgate } from '../../harness/stub-io.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
after(() => rmSync(folder, { recursive: true, force: true }))
const file = join(folder, 'gateway.yaml')
writeFileSync(file, 'log: { level: warn }\nbroker:\n  maxConnections: 7\nlabels:\n  line.1: { profile: camera }\n')
const env = { FLEETGATE_BROKER__ID: 'edge-1', FLEETGATE_DEBUG: '0' }
const configOf = (...words: string[]) => fleetgate(['config', ...words], { env })

test('config check says that a file is in order, or what is wrong with it at which line and column', async () => {
  const good = await configOf('check', file)
  assert.deepEqual(
    [good.code, good.out],
    [0, `${file}: in order; 4 settings are not the default, 1 of them from the environment\n`],
  )
  const bad = join(folder, 'bad.yaml')
  writeFileSync(bad, 'log: { level: warn }\nbroker:\n  maxConections: 7\n')
  const refused = await configOf('check', bad, '-o', 'json')
  assert.equal(refused.code, 2)
  const { code, detail } = JSON.parse(refused.err).error
  assert.equal(code, 'config_invalid')
  assert.match(detail, /bad\.yaml:3:3: broker: .*maxConections.*known here: .*maxConnections/)
  const wrong = await fleetgate(['config', 'check', file], { env: { FLEETGATE_BROKER__ID: '/' } })
  assert.deepEqual([wrong.code, /broker\.id/.test(wrong.err)], [2, true])
})

test('config show says what is set and where; with --effective the defaults too, as a file that is in order', async () => {
  const own = await configOf('show', '--config', file)
  assert.match(own.out, /^broker\.id +edge-1 +FLEETGATE_BROKER__ID$/m)
  assert.match(own.out, new RegExp(`^broker\\.maxConnections +7 +${file}:3:3$`, 'm'))
  assert.equal(own.out.trimEnd().split('\n').length, 5)
  const all = await configOf('show', '--config', file, '--effective', '-o', 'json')
  const { items } = JSON.parse(all.out) as { items: { key: string; value: unknown; from: string }[] }
  const from = (key: string) => items.find((one) => one.key === key)?.from
  assert.deepEqual([from('log.level'), from('broker.listen'), from('names')], [`${file}:1:8`, 'default', 'default'])
  const printed = join(folder, 'printed.yaml')
  writeFileSync(printed, (await configOf('show', '--config', file, '--effective', '-o', 'yaml')).out)
  assert.equal((await configOf('check', printed)).code, 0)
  const few = await configOf('show', '--config', file, '-o', 'yaml')
  assert.equal(
    few.out,
    'log:\n  level: warn\nlabels:\n  line.1:\n    profile: camera\nbroker:\n  id: edge-1\n  maxConnections: 7\n',
  )
})

test('config schema is the published one', async () => {
  const { out } = await configOf('schema')
  const published = new URL('../../../docs/configuration.schema.json', import.meta.url)
  assert.deepEqual(JSON.parse(out), JSON.parse(readFileSync(published, 'utf8')))
})
