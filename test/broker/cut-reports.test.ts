import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Socket } from 'node:net'
import { test } from 'node:test'
import { CutReports } from '../../broker/cut-reports.ts'
import type { Connection } from '../../broker/sessions.ts'
import { LastTaken } from '../../broker/wire/link-inbound.ts'
import type { BrokerReport } from '../../contract/broker-reports.ts'

const clock = () => new Date()

function connectionOn(socket: Socket): Connection {
  const link = { counters: { packetsIn: 1, bytesIn: 2, packetsOut: 3, bytesOut: 4 }, taken: new LastTaken() }
  const rest = { rules: { name: 'mqtts' }, remoteAddress: '192.0.2.1', state: 'live', isResumed: false }
  return { socket, link, connectedAt: clock(), ...rest } as unknown as Connection
}

test('a connection is told of once it is closed, whatever errors come before, and at once where it is closed already', async () => {
  const raised: BrokerReport[] = []
  const policy = { version: 1, document: { policies: [] } }
  const cuts = new CutReports({ raise: (report) => raised.push(report), policy: () => policy, clock })
  const open = new Socket()
  open.on('error', () => {})
  cuts.note(connectionOn(open), 'device_revoked', performance.now())
  let isSettled = false
  const settled = cuts.settled().then(() => {
    isSettled = true
  })
  await null
  assert.deepEqual([raised.length, isSettled], [0, false])
  open.destroy(new Error('ECONNRESET'))
  await settled
  assert.equal(raised.length, 1)

  const gone = new Socket().destroy()
  await once(gone, 'close')
  cuts.note(connectionOn(gone), 'device_revoked', performance.now())
  await cuts.settled()
  assert.equal(raised.length, 2)
})
