import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { isPassword, readPasswordFile } from '../../../runtime/passwords.ts'
import { fleetgate } from '../../harness/stub-io.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-passwd-'))
after(() => rmSync(folder, { recursive: true }))
const file = join(folder, 'passwords')
const typing = (password: string) => ({ readSecret: async () => password })

test('broker passwd prints a line, or puts it into a file in place of the one before', async () => {
  const printed = await fleetgate(['broker', 'passwd', 'cam-1'], typing('correct horse'))
  assert.match(printed.out, /^cam-1:\$argon2id\$v=19\$[^\n]+\n$/)
  writeFileSync(file, `# mine\n${printed.out}cam-2${printed.out.slice(5).trimEnd()}`)
  assert.equal((await fleetgate(['broker', 'passwd', 'cam-1', '--file', file], typing('battery staple'))).code, 0)
  const hashes = readPasswordFile(file)
  assert.deepEqual([...hashes.keys()], ['cam-2', 'cam-1'])
  assert.ok(await isPassword(hashes.get('cam-1')!, Buffer.from('battery staple')))
  assert.ok(readFileSync(file, 'utf8').startsWith('# mine\n'))
  const fresh = join(folder, 'fresh')
  await fleetgate(['broker', 'passwd', 'cam-3', '--file', fresh], typing('battery staple'))
  assert.equal(statSync(fresh).mode & 0o777, 0o600)
})

test('broker passwd takes no short password, no name that is none, and leaves a file of something else alone', async () => {
  assert.match((await fleetgate(['broker', 'passwd', 'cam-1'], typing('short'))).err, /8 to 1024 octets/)
  assert.equal((await fleetgate(['broker', 'passwd', 'cam 1'], typing('battery staple'))).code, 2)
  const other = join(folder, 'other')
  writeFileSync(other, 'precious\n')
  assert.equal((await fleetgate(['broker', 'passwd', 'cam-1', '--file', other], typing('battery staple'))).code, 2)
  assert.equal(readFileSync(other, 'utf8'), 'precious\n')
})
