/** The passphrase of keys on disk, as an operator sets it, changes it and takes it away. */
import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { LiveGateway } from '../harness/live-gateway.ts'
import { fleetgate } from '../harness/stub-io.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-keys-'))
after(() => rmSync(folder, { recursive: true, force: true }))
const data = join(folder, 'data')
const file = (name: string): string => join(folder, name)
const passphrase = (...words: string[]) =>
  fleetgate(['keys', 'passphrase', '--data', data, '--config', file('fleetgate.yaml'), ...words])
const isSealed = (): boolean => readFileSync(join(data, 'enroll/ca/issuing.key'), 'utf8').includes('ENCRYPTED')
const configure = (yaml: string): void => writeFileSync(file('fleetgate.yaml'), yaml)

test('nothing is changed under a gateway that runs; one that is stopped starts with the passphrase that the keys have then', async () => {
  for (const name of ['first', 'second']) writeFileSync(file(name), `${name}\n`, { mode: 0o600 })
  configure('')
  {
    await using _ = await LiveGateway.start('', data)
    const { code, err } = await passphrase('--new-file', file('first'))
    assert.deepEqual([code, /\(data_in_use\)/.test(err), isSealed()], [2, true, false], err)
  }
  for (const name of ['first', 'second']) {
    const { code, out, err } = await passphrase('--new-file', file(name))
    assert.equal(code, 0, err)
    const next = `keys: { passphraseFile: ${JSON.stringify(file(name))} }`
    assert.match(out, /^encrypted +enroll\/ca\/issuing\.key\n/)
    assert.ok(out.endsWith(`${next}\n`), out)
    configure(next)
  }
  {
    await using gateway = await LiveGateway.start(readFileSync(file('fleetgate.yaml'), 'utf8'), data)
    assert.equal((await gateway.admin.status()).brokers[0]?.connected, true)
  }
  const removed = await passphrase('--remove')
  assert.deepEqual([removed.code, isSealed()], [0, false], removed.err)
  for (const words of [[], ['--remove', '--new-file', file('first')]])
    assert.equal((await passphrase(...words)).code, 2)
})
