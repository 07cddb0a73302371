/**
 * SIGKILL of the enrollment service while many devices are reported stolen, at whatever step it is. test/enroll/ca/bulk.test.ts
 * ends it at each of its writes; here it is a process that is gone, a broker that follows, and a call that is made again.
 */
import assert from 'node:assert/strict'
import { randomInt } from 'node:crypto'
import { after, before, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { enrollIdentity } from '../../device-sim/identity.ts'
import { isFleetError } from '../../runtime/errors.ts'
import { LiveGateway } from '../harness/live-gateway.ts'

const rounds = 3
const perBatch = 2
const devicesPerRound = 12

let live: LiveGateway
before(async () => {
  live = await LiveGateway.start()
})
after(() => live[Symbol.asyncDispose]())

async function whenItLives<T>(ask: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await ask()
    } catch (error) {
      if (!isFleetError(error, 'unavailable')) throw error
      await delay(50)
    }
  }
}

/** @returns ids whose batch was acknowledged, and whether the call came to its end */
async function steal(ids: string[]): Promise<{ acknowledged: Map<string, string>; isWhole: boolean }> {
  const acknowledged = new Map<string, string>()
  for (let at = 0; at < ids.length; at += perBatch) {
    try {
      const { devices } = await live.admin.changeDevices({ verb: 'stolen', ids: ids.slice(at, at + perBatch) })
      for (const { deviceId, outcome } of devices) acknowledged.set(deviceId, outcome)
    } catch (error) {
      assert.ok(isFleetError(error, 'unavailable'), String(error))
      return { acknowledged, isWhole: false }
    }
  }
  return { acknowledged, isWhole: true }
}

test('however it is killed, what was acknowledged stands, no device is half stolen, and the same call finishes', async () => {
  let cutShort = 0
  for (let round = 0; round < rounds || cutShort < 1; round++) {
    const ids = Array.from({ length: devicesPerRound }, (_, n) => `van-${round}-${String(n).padStart(2, '0')}`)
    for (const [n, id] of ids.entries()) {
      const token = await live.server.operator.createToken(id, 'camera')
      if (n % 4 === 0) await enrollIdentity(live.server.est, id, token)
    }
    const stealing = steal(ids)
    await delay(randomInt(0, 60))
    await live.crash('enroll')
    const { acknowledged, isWhole } = await stealing
    if (!isWhole) cutShort++

    for (const id of ids) {
      const { status, stolenAt } = await whenItLives(() => live.admin.getDevice(id))
      if (acknowledged.has(id)) assert.equal(status, 'revoked', `${id} was acknowledged`)
      const counting = (await live.admin.listCertificates({ deviceId: id })).filter((one) => one.status === 'issued')
      const incidents = await live.admin.listIncidents({ deviceId: id, open: false })
      const isStolen = stolenAt !== undefined
      assert.deepEqual(
        [status, counting.length > 0, incidents.length],
        isStolen ? ['revoked', false, 1] : ['active', ids.indexOf(id) % 4 === 0, 0],
        `${id} is whole`,
      )
    }
    const again = await steal(ids)
    assert.deepEqual([again.isWhole, again.acknowledged.size], [true, ids.length])
    for (const [id, outcome] of again.acknowledged) if (acknowledged.has(id)) assert.equal(outcome, 'already', id)
    for (const id of ids) assert.ok((await live.admin.getDevice(id)).stolenAt !== undefined)
  }
  // The broker has followed through all of it.
  for (;;) {
    const { feedSeq, brokers } = await whenItLives(() => live.admin.status())
    if (brokers.length === 1 && brokers.every((one) => one.connected && one.appliedSeq >= feedSeq)) break
    await delay(20)
  }
})
