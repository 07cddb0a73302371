import assert from 'node:assert/strict'
import { test } from 'node:test'
import { barring, findBarred, maxBarred } from '../../../enroll/ca/barring.ts'

test('a device is barred until the last verb that is at it has ended, for the graver of the two', async () => {
  const [hold, theft] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  const holding = barring(['cam-1'], 'device_held', () => hold.promise)
  const first = barring(['cam-1'], 'device_revoked', () => theft.promise)
  const second = barring(['cam-1', 'cam-1'], 'device_revoked', async (bar) => {
    bar(['cam-2'], 'device_held')
    throw new Error('refused')
  })
  await assert.rejects(second, /refused/)
  assert.deepEqual([findBarred('cam-1'), findBarred('cam-2')], ['device_revoked', undefined])
  theft.resolve()
  await first
  assert.equal(findBarred('cam-1'), 'device_held')
  hold.resolve()
  await holding
  assert.equal(findBarred('cam-1'), undefined)
})

test('no more are barred than there is room for, and room is given back', async () => {
  const ids = Array.from({ length: maxBarred + 1 }, (_, n) => `cam-${n}`)
  await barring(ids, 'device_held', async () =>
    assert.deepEqual([findBarred(ids.at(-2)!), findBarred(ids.at(-1)!)], ['device_held', undefined]),
  )
  await barring([ids.at(-1)!], 'device_held', async () => assert.equal(findBarred(ids.at(-1)!), 'device_held'))
})
