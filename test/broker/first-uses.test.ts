import assert from 'node:assert/strict'
import { test } from 'node:test'
import { pino } from 'pino'
import { FirstUses } from '../../broker/first-uses.ts'
import type { Connection } from '../../broker/sessions.ts'
import type { Area } from '../../broker/store.ts'
import type { BrokerReport } from '../../contract/broker-reports.ts'

const clock = (): Date => new Date('2026-03-01T09:00:00Z')

/** What a broker keeps of first uses, over its restarts, and how often it is asked. */
class Place {
  readonly disk = new Map<string, Buffer>()
  readonly told: string[] = []
  reads = 0
  isFull = false

  start(): FirstUses {
    const area: Pick<Area, 'getMany' | 'write'> = {
      getMany: async (keys) => {
        this.reads++
        return keys.map((key) => this.disk.get(key))
      },
      write: async (operations) => {
        if (this.isFull) throw new Error('no room')
        for (const one of operations) {
          if (one.type === 'put') this.disk.set(one.key, one.value)
          else this.disk.delete(one.key)
        }
      },
    }
    const raise = (report: BrokerReport): boolean => {
      assert.equal(report.type, 'certificate.used')
      this.told.push(report.fingerprint)
      return true
    }
    return new FirstUses({ area: area as Area, raise, clock, log: pino({ enabled: false }) })
  }
}

const sessionWith = (fingerprint: string): Connection =>
  ({
    rules: { name: 'devices' },
    remoteAddress: '192.0.2.1',
    clientId: 'sensor-1',
    deviceId: 'sensor-1',
    certificate: { serial: '01', fingerprint },
  }) as Connection

test('the first session with a certificate is told once; for those that follow nobody asks the disk', async () => {
  const place = new Place()
  const uses = place.start()
  await uses.note(sessionWith('a'))
  assert.deepEqual([place.told, place.reads], [['a'], 1])
  for (let n = 0; n < 5; n++) await uses.note(sessionWith('a'))
  assert.deepEqual([place.told, place.reads], [['a'], 1])
  await uses.note(sessionWith('b'))
  assert.deepEqual([place.told, place.reads], [['a', 'b'], 2])
})

test('after a restart the disk is asked once for each certificate, and nothing is told again', async () => {
  const place = new Place()
  await place.start().note(sessionWith('a'))
  const uses = place.start()
  for (let n = 0; n < 3; n++) await uses.note(sessionWith('a'))
  assert.deepEqual([place.told, place.reads], [['a'], 2])
})

test('what was not kept is told again, and what was forgotten is asked for anew', async () => {
  const place = new Place()
  const uses = place.start()
  place.isFull = true
  await uses.note(sessionWith('a'))
  place.isFull = false
  await uses.note(sessionWith('a'))
  assert.deepEqual([place.told, place.reads], [['a', 'a'], 2])
  await uses.forget(['a'])
  assert.equal(place.disk.size, 0)
  await uses.note(sessionWith('a'))
  assert.deepEqual([place.told, place.reads], [['a', 'a', 'a'], 3])
})

test('what is remembered of first uses is bounded: who comes behind so many others is looked up once more, and not told of', async () => {
  const place = new Place()
  const uses = place.start()
  for (let n = 0; n <= 10_000; n++) await uses.note(sessionWith(`c${n}`))
  assert.equal(place.reads, 10_001)
  await uses.note(sessionWith('c0'))
  assert.deepEqual([place.told.length, place.reads], [10_001, 10_002])
})
