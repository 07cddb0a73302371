import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { hashPassword, isPassword, parsePasswordHash, readPasswordFile } from '../../runtime/passwords.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-passwords-'))
after(() => rmSync(folder, { recursive: true }))

test('a hash is of its password alone, and of its salt', async () => {
  const text = await hashPassword(Buffer.from('correct horse'), Buffer.alloc(16, 1))
  assert.match(text, /^\$argon2id\$v=19\$m=19456,t=2,p=1\$AQEBAQEBAQEBAQEBAQEBAQ\$[A-Za-z0-9+/]{43}$/)
  const hash = parsePasswordHash(text)!
  assert.ok(await isPassword(hash, Buffer.from('correct horse')))
  assert.ok(!(await isPassword(hash, Buffer.from('correct horse '))))
  assert.ok(!(await isPassword({ ...hash, salt: Buffer.alloc(16, 2) }, Buffer.from('correct horse'))))
})

test('a hash that the reference implementation made is understood', async () => {
  // argon2 of the phc-winner, its README: echo -n "password" | ./argon2 somesalt -id -t 2 -m 16 -p 1 is of this form.
  const hash = parsePasswordHash(
    '$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc',
  )!
  assert.ok(await isPassword(hash, Buffer.from('password')))
})

test('other forms, other variants and costs without bounds are no hash', () => {
  const tail = 'c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc'
  for (const head of [
    '$argon2i$v=19$m=65536,t=2,p=1',
    '$argon2id$v=16$m=65536,t=2,p=1',
    '$argon2id$v=19$m=1048576,t=2,p=1',
    '$argon2id$v=19$m=65536,t=99,p=1',
    '$argon2id$v=19$m=65536,t=0,p=1',
    '$argon2id$v=19$m=65536,t=2,p=9',
    '$argon2id$v=19$m=7,t=2,p=1',
    '$2b$12',
  ])
    assert.equal(parsePasswordHash(`${head}$${tail}`), undefined, head)
})

test('a file has a line for each device, and says where it has not', async () => {
  const path = join(folder, 'passwords')
  const line = `cam-1:${await hashPassword(Buffer.from('secret'), Buffer.alloc(16))}`
  writeFileSync(path, `# made by hand\n\n${line}\r\n`)
  assert.deepEqual([...readPasswordFile(path).keys()], ['cam-1'])
  writeFileSync(path, `${line}\n${line}\n`)
  assert.throws(() => readPasswordFile(path), { code: 'config_invalid', message: `${path}:2: cam-1 stands twice` })
  for (const bad of ['cam-1:secret', 'secret', line.slice(6)]) {
    writeFileSync(path, `${bad}\n`)
    assert.throws(() => readPasswordFile(path), { code: 'config_invalid', message: /passwords:1: device:\$argon2id/ })
  }
  assert.throws(() => readPasswordFile(join(folder, 'none')), { code: 'config_invalid', message: /cannot be read/ })
})
