/** The enrollment service follows its configuration file as it is edited, and looks at once when it is told to. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { TestPki } from '../harness/certificates.ts'
import { endsWithTest } from '../harness/ends-with-test.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
const main = fileURLToPath(new URL('../../enroll/main.ts', import.meta.url))
const file = join(folder, 'fleetgate.yaml')
const authorities = join(folder, 'factory.pem')
const listeners = '{ est: "127.0.0.1:0", admin: "127.0.0.1:0", feed: "127.0.0.1:0" }'
after(() => rmSync(folder, { recursive: true, force: true }))

test('an edited file, an exchanged one and a file that it names are in force by themselves, and a bad one is told of', async () => {
  const write = (rest: string): void => writeFileSync(file, `enroll: ${listeners}\n${rest}`)
  write('profiles: { camera: {} }\n')
  const service = endsWithTest(
    spawn(process.execPath, [main, '--config', file, '--data', join(folder, 'data')], {
      stdio: ['ignore', 'ignore', 'pipe'],
    }),
  )
  const lines = createInterface({ input: service.stderr! })[Symbol.asyncIterator]()
  const told = async (event: string): Promise<Record<string, unknown>> => {
    for (;;) {
      const { value, done } = await lines.next()
      assert.ok(!done, `${event} is told`)
      const line = JSON.parse(value)
      if (line.event === event) return line
    }
  }
  await told('service.started')

  write('profiles: { camera: { validityDays: 9 } }\n')
  assert.deepEqual((await told('configuration.replaced')).changed, ['profile camera'])

  write('profiles:\n  camera: { validityDays: nine }\n')
  assert.match(
    String((await told('configuration.refused')).detail),
    /fleetgate\.yaml:3:13: profiles\.camera\.validityDays/,
  )

  writeFileSync(authorities, (await TestPki.create('Maker')).issuing.pem)
  const line = `factory: { authorities: ${authorities} }`
  writeFileSync(
    `${file}.new`,
    `enroll: ${listeners}\nprofiles: { camera: { evidence: [factory] } }\nlabels: { line: { profile: camera, ${line} } }\n`,
  )
  renameSync(`${file}.new`, file)
  assert.deepEqual((await told('configuration.replaced')).changed, ['profile camera', 'label line'])

  writeFileSync(authorities, (await TestPki.create('Other Maker')).issuing.pem)
  assert.deepEqual((await told('configuration.replaced')).changed, ['label line'])

  write('profiles: { camera: {} }\nnames: [gateway.example]\n')
  service.kill('SIGHUP')
  assert.deepEqual((await told('configuration.replaced')).changed, ['profile camera', 'label line'])
  assert.deepEqual((await told('configuration.waiting')).settings, ['names'])
})
