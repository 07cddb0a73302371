import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { test } from 'node:test'
import { renewWith, requestWith } from '../../device-sim/token-key.ts'
import { createCsr, generateKeyPem } from '../../pki/x509.ts'

test('a PIN in the URI of a key is in no error, whichever program says why the key cannot be used', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
  const before = process.env.PATH
  t.after(() => {
    process.env.PATH = before
    rmSync(folder, { recursive: true })
  })
  const program = (name: string, script: string): void =>
    writeFileSync(join(folder, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
  process.env.PATH = `${folder}${delimiter}${before}`
  const uri = 'pkcs11:token=device;object=key;pin-value=9876'
  // As libp11's engine says it.
  const refusal = 'echo "The private key was not found at: $*" >&2; exit 1'
  const withoutPin = (error: Error): boolean =>
    /was not found at: .*it/.test(error.message) && !/9876/.test(error.message)

  program('openssl', refusal)
  await assert.rejects(requestWith(uri, 'cam-1'), withoutPin)

  const csr = await createCsr({ commonName: 'cam-1', privateKeyPem: generateKeyPem('P-256') })
  const pem = `-----BEGIN CERTIFICATE REQUEST-----\n${csr.toString('base64')}\n-----END CERTIFICATE REQUEST-----`
  program('openssl', `echo '${pem}'`)
  program('curl', refusal)
  const files = { root: join(folder, 'ca.pem'), chain: join(folder, 'chain.pem') }
  await assert.rejects(renewWith(uri, 'https://localhost:1', files), withoutPin)
})
