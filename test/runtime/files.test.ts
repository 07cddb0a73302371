import assert from 'node:assert/strict'
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { makeFolder, readPrivateFile, requireFolder, writeFileAtomic } from '../../runtime/files.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-files-'))
after(() => rmSync(folder, { recursive: true }))
const modeOf = (path: string): number => statSync(path).mode & 0o777
const posix = { skip: process.platform === 'win32' ? 'Windows has no POSIX modes' : false }

test('a file is written whole, over what was there, and nothing else is left behind', () => {
  const path = join(folder, 'one', 'file')
  writeFileAtomic(path, 'first')
  writeFileAtomic(path, Buffer.from('second'))
  assert.equal(readFileSync(path, 'utf8'), 'second')
  assert.deepEqual(readdirSync(join(folder, 'one')), ['file'])
})

test("the file has the mode that was asked for, its new folder is the owner's alone", posix, () => {
  const path = join(folder, 'two', 'key')
  writeFileAtomic(path, 'k', 0o600)
  assert.deepEqual([modeOf(path), modeOf(join(folder, 'two'))], [0o600, 0o700])
})

test('a secret that replaces a readable file is not readable for a moment', posix, () => {
  const path = join(folder, 'three')
  writeFileAtomic(path, 'open')
  writeFileAtomic(path, 'secret', 0o600)
  assert.equal(modeOf(path), 0o600)
})

test('a write that fails leaves the old file and no draft', () => {
  const path = join(folder, 'four', 'taken')
  mkdirSync(join(path, 'inside'), { recursive: true })
  assert.throws(() => writeFileAtomic(path, 'x'))
  assert.deepEqual(readdirSync(join(folder, 'four')), ['taken'])
})

test('megabytes are written to the last byte', () => {
  const path = join(folder, 'five')
  const bytes = Buffer.alloc(5_000_000, 7)
  writeFileAtomic(path, bytes)
  assert.ok(readFileSync(path).equals(bytes))
})

test('a private file that only its owner can read is read', posix, () => {
  const path = join(folder, 'six')
  writeFileAtomic(path, 'secret', 0o600)
  assert.equal(readPrivateFile(path), 'secret')
  chmodSync(path, 0o400)
  assert.equal(readPrivateFile(path), 'secret')
})

test('a private file that others can read is refused with the command that mends it', posix, () => {
  const path = join(folder, 'seven')
  for (const mode of [0o640, 0o604, 0o644, 0o620, 0o601]) {
    writeFileAtomic(path, 'secret', 0o600)
    chmodSync(path, mode)
    assert.throws(() => readPrivateFile(path), {
      code: 'key_permissions',
      message: `${path} has mode 0${mode.toString(8)}, so others can read a private key; run: chmod 600 ${path}`,
    })
  }
})

test('a private file that is missing is named', () => {
  assert.throws(() => readPrivateFile(join(folder, 'absent')), {
    code: 'data_damaged',
    message: /absent cannot be read: there is no such file/,
  })
})

/** Root may write anywhere, so it is somebody else for this. */
function asNobody<T>(act: () => T): T {
  if (process.getuid?.() !== 0) return act()
  process.seteuid!(65_534)
  try {
    return act()
  } finally {
    process.seteuid!(0)
  }
}

test('a folder is made with those above it, and one that is there stays as it is', posix, () => {
  makeFolder(join(folder, 'eight', 'below'))
  assert.deepEqual([modeOf(join(folder, 'eight')), modeOf(join(folder, 'eight', 'below'))], [0o700, 0o700])
  chmodSync(join(folder, 'eight'), 0o750)
  requireFolder(join(folder, 'eight'))
  assert.equal(modeOf(join(folder, 'eight')), 0o750)
})

test('a folder that cannot be made or written is told at once, and why', posix, () => {
  const closed = mkdtempSync(join(tmpdir(), 'fleetgate-closed-'))
  const file = join(closed, 'nine')
  writeFileAtomic(file, 'x')
  chmodSync(closed, 0o555)
  for (const [path, says] of [
    [file, `${file} is a file`],
    [join(file, 'below'), `${file} is a file`],
    [join(closed, 'one', 'two'), 'this user may not'],
    // There mkdir says of any name that it does not exist.
    ...(process.platform === 'linux' ? ([['/proc/x/y', 'nothing can be made there']] as const) : []),
  ] as const)
    assert.throws(() => asNobody(() => requireFolder(path)), {
      code: 'data_damaged',
      message: new RegExp(`^the folder ${path} cannot be made: ${says}; name another$`),
    })
  assert.throws(() => asNobody(() => requireFolder(closed)), { message: /cannot be written: this user may not; name/ })
  rmSync(closed, { recursive: true })
})
