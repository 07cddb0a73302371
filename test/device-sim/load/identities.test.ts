import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import type { DeviceId } from '../../../contract/ids.ts'
import { parseTokens, readParticipants } from '../../../device-sim/load/identities.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
after(() => rmSync(folder, { recursive: true }))
const tokens = join(folder, 'tokens.csv')
const kept = join(folder, 'kept')
const none = join(folder, 'none')
writeFileSync(tokens, 'device,token\r\ncam-2,t2\r\napp-1,ta\r\ncam-1,t1\r\n')
const subscribers = ['app-1' as DeviceId]

test('the columns are found by their heading, as the operator prints it, or are the first two', () => {
  const found = [
    { id: 'cam-1', token: 't1' },
    { id: 'cam-2', token: 't2' },
  ]
  assert.deepEqual(
    parseTokens('deviceId,profile,token,expiresAt\ncam-1,camera,t1,soon\ncam-2,camera,t2,soon\n', 'f'),
    found,
  )
  assert.deepEqual(parseTokens('\n"cam-1","t1",soon\n\ncam-2, t2\n', 'f'), found)
})

for (const [text, says] of [
  ['a/b,t', /^f, line 1: a device id is/],
  ['cam-1,t\ncam-2', /^f, line 2: device,token is wanted/],
  ['cam-1,t\ncam-1,u', /^f, line 2: cam-1 stands twice/],
] as const) {
  test(`refused with its line: ${JSON.stringify(text)}`, () => {
    assert.throws(() => parseTokens(text, 'f'), { code: 'config_invalid', message: says })
  })
}

test('the first devices of the file take part, the subscribers beside them', () => {
  const { publishers, subscribers: audience } = readParticipants({ dir: none, tokens, devices: 1, subscribers })
  assert.deepEqual(publishers, [{ id: 'cam-2', token: 't2' }])
  assert.deepEqual(audience, [{ id: 'app-1', token: 'ta' }])
  assert.equal(readParticipants({ dir: none, tokens, subscribers }).publishers.length, 2)
})

test('too few devices, an unknown subscriber and a file that is not there are one sentence each', () => {
  const refused = (wanted: object, message: RegExp): void =>
    assert.throws(() => readParticipants({ dir: none, subscribers, ...wanted }), { code: 'config_invalid', message })
  refused({ tokens, devices: 3 }, /tokens\.csv has 2 devices beside the subscribers, 3 are wanted$/)
  refused({ tokens, subscribers: ['app-2'] }, /--subscriber app-2 is not in .*tokens\.csv/)
  refused({ tokens: kept }, /--tokens: .* cannot be read/)
  refused({ subscribers: [] }, /has 0 devices beside the subscribers, some are wanted; --tokens FILE brings/)
})
