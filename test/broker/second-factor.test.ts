import assert from 'node:assert/strict'
import { argon2Sync } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { SecondFactor } from '../../broker/second-factor.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-passwords-'))
const file = join(folder, 'passwords')
before(() => {
  const nonce = Buffer.alloc(16, 1)
  const tag = argon2Sync('argon2id', { message: 'right', nonce, memory: 8, passes: 1, parallelism: 1, tagLength: 32 })
  const [salt, digest] = [nonce, tag].map((bytes) => bytes.toString('base64').replaceAll('=', ''))
  const hash = `$argon2id$v=19$m=8,t=1,p=1$${salt}$${digest}`
  writeFileSync(file, `lamp-1:${hash}\nlamp-2:${hash}\n`)
})
after(() => rmSync(folder, { recursive: true }))

const right = { password: Buffer.from('right') }
const wrong = { password: Buffer.from('wrong') }

async function faults(factor: SecondFactor, tries: readonly [string, typeof right][]): Promise<(string | undefined)[]> {
  const answers = await Promise.all(tries.map(([deviceId, shown]) => factor.fault(deviceId, shown)))
  return answers.map((fault) => fault?.[0])
}

test('guesses that are made at once are counted like those that are made in turn', async () => {
  const factor = new SecondFactor(file, () => 0)
  const guesses = (count: number) => faults(factor, Array(count).fill(['lamp-1', wrong]))
  const said = [...(await guesses(9)), ...(await guesses(8))]
  // The guess that is checked beside the tenth one was begun before that was known to be wrong.
  assert.ok(said.filter((code) => code === 'password_wrong').length <= 11)
  assert.equal(said.at(-1), 'too_many_requests')
})

test('a device that comes again and again does not take the turns of others, nor is it locked', async () => {
  const factor = new SecondFactor(file, () => 0)
  const storm = faults(factor, Array(13).fill(['lamp-1', right]))
  assert.deepEqual(await faults(factor, [['lamp-2', right]]), [undefined])
  assert.deepEqual(await storm, [...Array(10).fill(undefined), ...Array(3).fill('unavailable')])
  assert.deepEqual(await faults(factor, [['lamp-1', right]]), [undefined])
})
