import assert from 'node:assert/strict'
import { createPublicKey, generateKeyPairSync, verify } from 'node:crypto'
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { createKeyFile, openKeyFile, type Signer, signerOf } from '../../pki/keystore.ts'
import { keyTypeOf } from '../../pki/public-key.ts'
import { isFleetError } from '../../runtime/errors.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-keys-'))
after(() => rmSync(folder, { recursive: true }))
const plain = join(folder, 'plain.key')
const sealed = join(folder, 'sealed.key')
const plainSigner = createKeyFile(plain)
const sealedSigner = createKeyFile(sealed, 'correct horse')

const refuses = (
  action: () => unknown,
  code: 'key_passphrase' | 'conflict' | 'data_damaged' | 'key_permissions',
  words: RegExp,
) => assert.throws(action, (error) => isFleetError(error, code) && words.test(error.message))

test('a key file is PKCS#8, mode 0600, and encrypted when there is a passphrase', () => {
  assert.equal(statSync(plain).mode & 0o777, 0o600)
  assert.equal(statSync(sealed).mode & 0o777, 0o600)
  assert.match(readFileSync(plain, 'utf8'), /^-----BEGIN PRIVATE KEY-----/)
  assert.match(readFileSync(sealed, 'utf8'), /^-----BEGIN ENCRYPTED PRIVATE KEY-----/)
})

test('a key opened again is the same key, and its signature verifies', async () => {
  const check = async (made: Signer, opened: Signer) => {
    assert.deepEqual(opened.publicKeySpki, made.publicKeySpki)
    assert.equal(keyTypeOf(opened.publicKeySpki), 'P-256')
    const tbs = Buffer.from('to be signed')
    const key = createPublicKey({ key: made.publicKeySpki, format: 'der', type: 'spki' })
    assert.ok(verify('sha256', tbs, key, await opened.sign(tbs)))
  }
  await check(plainSigner, openKeyFile(plain))
  await check(sealedSigner, openKeyFile(sealed, 'correct horse'))
})

test('a signature verifies wherever it was made', async () => {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const tbs = Buffer.from('to be signed')
  for (const onThread of [false, true]) {
    assert.ok(verify('sha256', tbs, publicKey, await signerOf(privateKey, { onThread }).sign(tbs)))
  }
})

test('a signer does not show its private key', () => {
  assert.deepEqual(Object.keys(plainSigner).toSorted(), ['algorithm', 'publicKeySpki', 'sign', 'signParts'])
})

test('a wrong, missing or needless passphrase is refused', () => {
  refuses(() => openKeyFile(sealed, 'wrong'), 'key_passphrase', /cannot be opened/)
  refuses(() => openKeyFile(sealed), 'key_passphrase', /no passphrase/)
  refuses(() => openKeyFile(sealed, ''), 'key_passphrase', /cannot be opened/)
  refuses(() => openKeyFile(plain, 'needless'), 'key_passphrase', /not encrypted/)
  refuses(() => createKeyFile(join(folder, 'empty.key'), ''), 'key_passphrase', /empty/)
})

test('a key is never overwritten, and nothing is left beside it', () => {
  const before = readFileSync(plain)
  refuses(() => createKeyFile(plain), 'conflict', /never overwritten/)
  assert.deepEqual(readFileSync(plain), before)
  assert.deepEqual(readdirSync(folder).toSorted(), ['plain.key', 'sealed.key'])
})

test('a file that is missing, readable by others, or no P-256 key is refused', () => {
  const file = (name: string, content: string): string => {
    const path = join(folder, name)
    writeFileSync(path, content, { mode: 0o600 })
    return path
  }
  const pem = (type: 'P-384' | 'ed25519'): string =>
    (type === 'ed25519' ? generateKeyPairSync('ed25519') : generateKeyPairSync('ec', { namedCurve: type })).privateKey
      .export({ format: 'pem', type: 'pkcs8' })
      .toString()
  refuses(() => openKeyFile(join(folder, 'missing.key')), 'data_damaged', /missing\.key/)
  refuses(() => openKeyFile(file('garbage.key', 'garbage')), 'data_damaged', /no readable private key/)
  refuses(() => openKeyFile(file('p384.key', pem('P-384'))), 'data_damaged', /not P-256/)
  refuses(() => openKeyFile(file('ed25519.key', pem('ed25519'))), 'data_damaged', /not P-256/)
  const open = file('open.key', readFileSync(plain, 'utf8'))
  chmodSync(open, 0o640)
  refuses(() => openKeyFile(open), 'key_permissions', /0640/)
})
