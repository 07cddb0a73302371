import assert from 'node:assert/strict'
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { commandLine, endpointsFile, readEndpoints } from '../../runtime/endpoints.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
after(() => rmSync(folder, { recursive: true }))

const inNobodysPlace = <T>(work: () => T): T => {
  if (process.getuid?.() !== 0) return work()
  // Root may read everything.
  process.seteuid!(65_534)
  try {
    return work()
  } finally {
    process.seteuid!(0)
  }
}

test('a folder without endpoints.json has no gateway, and the line that starts one can be pasted', () => {
  const dataDir = join(folder, "Anna's data")
  assert.throws(() => readEndpoints(dataDir), {
    code: 'unavailable',
    message: `No gateway runs on ${dataDir} (there is no ${endpointsFile(dataDir)}); start it: npx fleetgate up --data '${dataDir.replace("'", "'\\''")}'`,
  })
})

const posix = { skip: process.platform === 'win32' && 'Windows knows no file modes' }

test('an endpoints.json that this user may not read is told apart from one that is not there', posix, () => {
  const dataDir = join(folder, 'private')
  mkdirSync(dataDir)
  writeFileSync(endpointsFile(dataDir), '{}')
  chmodSync(dataDir, 0)
  inNobodysPlace(() =>
    assert.throws(() => readEndpoints(dataDir), { code: 'data_damaged', message: /cannot be read by this user/ }),
  )
  chmodSync(dataDir, 0o700)
})

test('an endpoints.json that cannot be read or is none says so', () => {
  const dataDir = join(folder, 'odd')
  mkdirSync(endpointsFile(dataDir), { recursive: true })
  assert.throws(() => readEndpoints(dataDir), { code: 'data_damaged', message: /cannot be read: / })
  rmSync(endpointsFile(dataDir), { recursive: true })
  writeFileSync(endpointsFile(dataDir), '{"est":1}')
  assert.throws(() => readEndpoints(dataDir), { code: 'data_damaged', message: /is not what a gateway writes/ })
})

test('a command line names the data folder unless it is the default, quoted where a shell needs it', () => {
  assert.equal(commandLine(['device', 'ls'], './data'), 'npx fleetgate device ls')
  assert.equal(commandLine(['up'], '/srv/my data'), "npx fleetgate up --data '/srv/my data'")
})
