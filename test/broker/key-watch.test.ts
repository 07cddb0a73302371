import assert from 'node:assert/strict'
import { test } from 'node:test'
import { KeyWatch } from '../../broker/key-watch.ts'
import type { BrokerReport } from '../../contract/broker-reports.ts'
import type { CertificateFacts } from '../../pki/certificate.ts'
import { createLog } from '../../runtime/log.ts'

test('who goes on with a stolen key from one address, or from many of a /64, is told of once a minute', () => {
  const reports: BrokerReport[] = []
  let now = new Date('2026-03-01T00:00:00Z')
  const watch = new KeyWatch({
    snapshot: {
      withWatchedKeys: () => ['cam-1'],
      findDevice: () => ({ profile: 'camera', groups: [], status: 'revoked', watchedKeys: ['ab'] }),
    },
    report: (report) => reports.push(report),
    events: { raise: () => {} },
    clock: () => now,
    log: createLog('broker', 'silent'),
  })
  const look = (remoteAddress: string): void =>
    watch.look({ spkiHash: 'ab', serial: '01', fingerprint: 'cd' } as CertificateFacts, {
      connectionId: 'c',
      remoteAddress,
      listener: 'l',
    })
  for (const address of ['192.0.2.7', '192.0.2.7', '2001:db8::1', '2001:db8::2', '2001:db8::3']) look(address)
  now = new Date(now.getTime() + 60_000)
  look('2001:db8::4')
  const told = reports.map((report) => report.type === 'alert' && `${report.remoteAddress} ${report.count}`)
  assert.deepEqual(told, ['192.0.2.7 1', '2001:db8::1 1', '2001:db8::4 3'])
})
