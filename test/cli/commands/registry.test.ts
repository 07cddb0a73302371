import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { parsePem } from '../../../pki/certificate.ts'
import { createSelfSigned } from '../../../pki/x509.ts'
import { type AdminAnswer, type AdminRequest, problem, StubAdmin } from '../../harness/stub-admin.ts'
import { fleetgate } from '../../harness/stub-io.ts'

const at = '2026-01-01T00:00:00.000Z'
const device = { id: 'cam-1', profile: 'camera', groups: ['berlin', 'hall'], status: 'active', createdAt: at }
const receipt = {
  deviceId: 'cam-1',
  reason: 'keyCompromise',
  revokedAt: at,
  alreadyRevoked: false,
  certificates: ['0a1b'],
  tokensVoided: 1,
  feedSeq: 9,
  inForce: true,
  brokers: [{ broker: 'broker-1', connected: true, confirmed: true, confirmedMs: 4.25 }],
  ticketsVoid: true,
  crlNumber: 7,
  committedMs: 3,
  sessions: [
    {
      broker: 'broker-1',
      clientId: 'cam-1',
      listener: 'mqtts',
      remoteAddress: '192.0.2.9',
      state: 'live',
      isResumed: false,
      connectedAt: at,
      lastPacket: { type: 'publish', topic: 'devices/cam-1/x', at },
      closedMs: 4,
      sinceCommitMs: 1,
      tookMs: 1.5,
      packetsIn: 9,
      bytesIn: 900,
      packetsOut: 0,
      bytesOut: 0,
      publish: ['devices/cam-1/#'],
      subscribe: [],
    },
  ],
}
const { deviceId, certificates, feedSeq, inForce, brokers } = receipt
const hold = { deviceId, alreadySo: false, certificates, feedSeq, inForce, brokers }
const certificate = {
  serial: '0a1b',
  kind: 'device',
  deviceId: 'cam-1',
  profile: 'camera',
  status: 'issued',
  subject: 'CN=cam\u202e-1',
  pem: 'PEM\n',
}
const approval = {
  id: 'ab'.repeat(32),
  deviceId: 'cam-1',
  profile: 'camera',
  label: 'line',
  keyType: 'P-256',
  spkiHash: 'cd'.repeat(32),
  proved: [],
  remoteAddress: '192.0.2.7',
  requestedAt: at,
  expiresAt: at,
  decision: 'pending',
}
const lateRenewal = { deviceId: 'cam-1', status: 'unspent', allowedAt: at, allowedBy: 'operator:ann', expiresAt: at }
const incident = {
  id: '0123456789ab',
  kind: 'stolen',
  deviceId: 'cam-1',
  openedAt: at,
  openedBy: 'operator:operator',
  evidence: [
    {
      at,
      what: 'session.cut',
      by: 'broker-1',
      remoteAddress: '192.0.2.9',
      details: { clientId: 'cam\u202e', publish: ['a', 'b'] },
    },
  ],
  leftOut: 3,
}
const session = {
  clientId: 'cam-1',
  deviceId: 'cam-1',
  serial: '0a1b',
  broker: 'broker-1',
  listener: 'mqtts',
  remoteAddress: '192.0.2.9',
  connectedAt: at,
  isResumed: true,
  lastPacket: { type: 'publish', topic: 'x/\u202e', at },
  packetsIn: 9,
  bytesIn: 900,
  packetsOut: 1,
  bytesOut: 20,
}
const away = { broker: 'broker-2', why: 'not_asked' }
const ok = (body: unknown): AdminAnswer => ({ status: 200, body })

const cases: {
  argv: string[]
  answer: unknown
  asked: Partial<AdminRequest>
  shown: RegExp
}[] = [
  {
    argv: ['device', 'create', 'cam-1', '--profile', 'camera', '--group', 'berlin', '--group', 'hall'],
    answer: device,
    asked: {
      method: 'POST',
      path: '/v1/devices',
      body: { id: 'cam-1', profile: 'camera', groups: ['berlin', 'hall'] },
    },
    shown: /groups +berlin, hall\n/,
  },
  {
    argv: ['cert', 'ls', '--expires-in', '30d'],
    answer: { items: [certificate] },
    asked: { method: 'GET', path: '/v1/certificates', query: { expiresInMs: '2592000000', limit: '1000' } },
    shown: /\n0a1b +device +cam-1 +camera +issued/,
  },
  {
    argv: ['operator', 'rm', 'ann'],
    answer: {
      ...{ name: 'ann', role: 'admin', status: 'removed', createdAt: at, createdBy: 'operator:operator' },
      certificates: ['0a1b'],
      apiTokens: [{ name: 'ci', role: 'enroller', expiresAt: at }],
    },
    asked: { method: 'DELETE', path: '/v1/operators/ann' },
    shown: /revoked +0a1b\n[\s\S]*fleetgate api-token rm NAME ends one:\nAPI TOKEN +ROLE +ENDS\nci +enroller +2026/,
  },
  {
    argv: [
      ...'cert ls --kind device --status held --profile camera --subject CN=cam-1 --issuer fleetgate'.split(' '),
      ...'--label line --serial 0A:1B --reason certificateHold --no-used --revoked-since 2026-01-01'.split(' '),
      ...'--issued-until 2026-02-01 --expires-before 2027-01-01 -o name'.split(' '),
      ...['--key', 'ab'.repeat(32), '--fingerprint', 'CD'.repeat(32)],
    ],
    answer: { items: [certificate] },
    asked: {
      path: '/v1/certificates',
      query: {
        ...{ kind: 'device', status: 'held', profile: 'camera', subject: 'CN=cam-1', issuer: 'fleetgate' },
        ...{ label: 'line', serial: '0a1b', reason: 'certificateHold', used: 'false', revokedFrom: at },
        ...{ issuedTo: '2026-02-01T00:00:00.000Z', expiresBefore: '2027-01-01T00:00:00.000Z' },
        ...{ key: 'ab'.repeat(32), fingerprint: 'cd'.repeat(32) },
        limit: '1000',
      },
    },
    shown: /^0a1b\n$/,
  },
  {
    argv: ['enroll', 'allow-late', 'cam-1', '--ttl', '2h'],
    answer: lateRenewal,
    asked: { method: 'PUT', path: '/v1/late-renewals/cam-1', body: { ttlMs: 7_200_000 } },
    shown: /status +unspent\nallowed +2026.* by operator:ann\n/,
  },
  {
    argv: ['enroll', 'allow-late', 'cam-1', '--withdraw'],
    answer: lateRenewal,
    asked: { method: 'DELETE', path: '/v1/late-renewals/cam-1' },
    shown: /^cam-1 may not renew late any more\n$/,
  },
  {
    argv: ['enroll', 'allow-late', '--list'],
    answer: { items: [{ ...lateRenewal, status: 'spent', serial: '0a1b' }] },
    asked: { method: 'GET', path: '/v1/late-renewals' },
    shown: /^DEVICE +STATUS.*\ncam-1 +spent .* 0a1b\n/,
  },
  {
    argv: ['device', 'create', 'cam-1', '--profile', 'camera', '--attribute', 'site=a=b', '--attribute', 'floor=2'],
    answer: { ...device, attributes: { site: 'a=b', floor: '2' } },
    asked: { body: { id: 'cam-1', profile: 'camera', groups: [], attributes: { site: 'a=b', floor: '2' } } },
    shown: /attributes +site=a=b, floor=2\n/,
  },
  {
    argv: ['device', 'set', 'cam-1', '--attribute', 'site=berlin', '--unset', 'floor'],
    answer: { ...device, attributes: { site: 'berlin' } },
    asked: { method: 'PATCH', path: '/v1/devices/cam-1', body: { attributes: { site: 'berlin', floor: null } } },
    shown: /attributes +site=berlin\n/,
  },
  {
    argv: ['device', 'set', 'cam-1', '--profile', 'sensor'],
    answer: { ...device, profile: 'sensor' },
    asked: { method: 'PATCH', path: '/v1/devices/cam-1', body: { profile: 'sensor' } },
    shown: /profile +sensor\n/,
  },
  {
    argv: ['device', 'ls', '--group', 'hall', '--status', 'active'],
    answer: { items: [device] },
    asked: { method: 'GET', path: '/v1/devices', query: { group: 'hall', status: 'active', limit: '1000' } },
    shown: /^ID +PROFILE +GROUPS.*\ncam-1 +camera +berlin,hall +active +- +2026/,
  },
  {
    argv: [
      ...'device ls --attribute site=a=b --serial 0A1B --stolen --reason superseded'.split(' '),
      ...'--created-since 2026-01-01 --created-until 2026-02-01 --revoked-until 2026-03-01 -o name'.split(' '),
    ],
    answer: { items: [device] },
    asked: {
      path: '/v1/devices',
      query: {
        ...{ attribute: 'site=a=b', serial: '0a1b', stolen: 'true', reason: 'superseded', createdFrom: at },
        ...{ createdTo: '2026-02-01T00:00:00.000Z', revokedTo: '2026-03-01T00:00:00.000Z', limit: '1000' },
      },
    },
    shown: /^cam-1\n$/,
  },
  {
    argv: ['token', 'ls', '--status', 'spent', '--profile', 'camera'],
    answer: {
      items: [
        {
          ...{ id: 'ab'.repeat(32), deviceId: 'cam-1', profile: 'camera', status: 'spent' },
          ...{ createdAt: at, expiresAt: at, serial: '0a1b' },
        },
      ],
    },
    asked: { method: 'GET', path: '/v1/tokens', query: { status: 'spent', profile: 'camera', limit: '1000' } },
    shown: /^DEVICE +PROFILE +STATUS +EXPIRES.*\ncam-1 +camera +spent +2026\S+ +2026\S+ +0a1b\n$/,
  },
  {
    argv: ['enroll', 'approvals', 'ls', '--profile', 'camera', '--label', 'line', '--device', 'cam-1'],
    answer: { items: [approval] },
    asked: {
      path: '/v1/approvals',
      query: { decision: 'pending', deviceId: 'cam-1', profile: 'camera', label: 'line', limit: '1000' },
    },
    shown: /\nabababababab +cam-1 +camera +line/,
  },
  {
    argv: ['device', 'revoke', 'cam-1', '--reason', 'keyCompromise'],
    answer: receipt,
    asked: { method: 'POST', path: '/v1/devices/cam-1/revoke', body: { reason: 'keyCompromise', waitMs: 10_000 } },
    shown:
      /on disk +3\.0 ms after the order\nin force +on 1 of 1, 4\.3 ms after the commit\nbroker-1 +in force 4\.3 ms after the commit\nTLS tickets +void\nCRL number +7\ncam-1 +session from 192\.0\.2\.9 closed 1\.0 ms after the commit \(4\.0 ms after the order\) on broker-1 mqtts; last packet: publish devices\/cam-1\/x at 2026/,
  },
  {
    argv: ['session', 'ls', '--broker', 'broker-1', '--listener', 'mqtts'],
    answer: { items: [session], unheard: [away] },
    asked: { path: '/v1/sessions', query: { broker: 'broker-1', listener: 'mqtts', limit: '200' } },
    shown:
      /^CLIENT ID .*\ncam-1 +cam-1 +broker-1 +mqtts +192\.0\.2\.9 +2026\S+\nbroker-2 is of a version that cannot be asked; /,
  },
  {
    argv: ['session', 'show', 'cam-1'],
    answer: { items: [session, { ...session, clientId: 'cam-1:b' }], unheard: [] },
    asked: { path: '/v1/sessions', query: { deviceId: 'cam-1', limit: '200' } },
    shown:
      /^client id +cam-1\n[\s\S]*since +2026\S+, by a TLS session ticket\nlast packet +publish x\/<U\+202E> at 2026\S+\ntaken +9 packets, 900 bytes\nsent +1 packets, 20 bytes\n$/,
  },
  {
    argv: ['session', 'kick', 'cam-1'],
    answer: { kicked: [session], unheard: [{ broker: 'broker-2', why: 'no_answer' }] },
    asked: { method: 'POST', path: '/v1/sessions/kick', body: { clientId: 'cam-1' } },
    shown: /^ended cam-1 at broker-1, from 192\.0\.2\.9\nbroker-2 has not answered; /,
  },
  {
    argv: ['incident', 'ls', '--device', 'cam-1'],
    answer: { items: [incident] },
    asked: { method: 'GET', path: '/v1/incidents', query: { deviceId: 'cam-1', open: 'true', limit: '1000' } },
    shown: /^INCIDENT +KIND +DEVICE.*\n0123456789ab +stolen +cam-1 +2026\S+ +- +4\n$/,
  },
  {
    argv: ['incident', 'show', '0123456789ab'],
    answer: incident,
    asked: { method: 'GET', path: '/v1/incidents/0123456789ab' },
    shown:
      /left out +3 in the middle\n\n2026\S+ session\.cut by broker-1 from 192\.0\.2\.9\n {2}clientId=cam<U\+202E>\n {2}publish=a,b\n$/,
  },
  {
    argv: ['incident', 'close', '0123456789ab', '--note', 'found'],
    answer: { ...incident, closedAt: at, closedBy: 'operator:operator', note: 'found' },
    asked: { method: 'POST', path: '/v1/incidents/0123456789ab/close', body: { note: 'found' } },
    shown: /closed +2026\S+ by operator:operator\nnote +found\n/,
  },
  {
    argv: ['device', 'allow', 'ls', '--label', 'line', '--device', 'cam-1'],
    answer: { items: [{ label: 'line', serial: 'SN\u202e 1', deviceId: 'cam-1', createdAt: at }] },
    asked: { method: 'GET', path: '/v1/allowances', query: { label: 'line', deviceId: 'cam-1', limit: '1000' } },
    shown: /^LABEL +SERIAL NUMBER +DEVICE.*\nline +SN<U\+202E> 1 +cam-1 +2026/,
  },
  {
    argv: ['device', 'allow', 'rm', 'SN1', 'SN2', 'SN1', '--label', 'line'],
    answer: { removed: 1 },
    asked: { method: 'POST', path: '/v1/devices/disallow', body: { label: 'line', serials: ['SN1', 'SN2'] } },
    shown: /^removed +1\nunknown +1\n$/,
  },
  {
    argv: ['device', 'disable', 'cam-1', '--no-wait'],
    answer: { ...hold, status: 'held', heldAt: at },
    asked: { method: 'POST', path: '/v1/devices/cam-1/disable', body: { waitMs: 0 } },
    shown: /status +held\nheld +2026/,
  },
  {
    argv: ['device', 'enable', 'cam-1'],
    answer: { ...hold, status: 'active', alreadySo: true },
    asked: { method: 'POST', path: '/v1/devices/cam-1/enable', body: { waitMs: 10_000 } },
    shown: /status +active \(it was so before\)\n/,
  },
  {
    argv: ['device', 'stolen', 'cam-1'],
    answer: {
      ...receipt,
      stolenAt: at,
      alreadyStolen: false,
      incident: '0123456789ab',
      claimCertificate: 'ab'.repeat(32),
      sameHardware: ['cam-8'],
      sameSerialNumber: ['cam-9', 'cam-10'],
    },
    asked: { method: 'POST', path: '/v1/devices/cam-1/stolen', body: { waitMs: 10_000 } },
    shown:
      /incident +0123456789ab\nsame hardware +cam-8: on hold, .*\nsame serial +cam-9, cam-10: left as it is; .*\nstill open +it enrolled with the claim certificate abab/,
  },
  {
    argv: ['device', 'readmit', 'cam-1', '--stolen-recovered'],
    answer: device,
    asked: { path: '/v1/devices/cam-1/readmit', body: { stolenRecovered: true } },
    shown: /status +active\n/,
  },
  {
    argv: ['device', 'readmit', 'cam-1'],
    answer: device,
    asked: { method: 'POST', path: '/v1/devices/cam-1/readmit', body: { stolenRecovered: false } },
    shown: /status +active\n/,
  },
  {
    argv: ['token', 'create', '--device', 'cam-1', '--ttl', '15m', '--profile', 'camera'],
    answer: { token: 'secret', deviceId: 'cam-1', profile: 'camera', expiresAt: at },
    asked: { method: 'POST', path: '/v1/tokens', body: { deviceId: 'cam-1', ttlMs: 900_000, profile: 'camera' } },
    shown: /token +secret\n/,
  },
  {
    argv: ['token', 'create', '--device', 'cam-1', '--quiet'],
    answer: { token: 'secret', deviceId: 'cam-1', profile: 'camera', expiresAt: at },
    asked: { body: { deviceId: 'cam-1', ttlMs: 86_400_000 } },
    shown: /^secret\n$/,
  },
  {
    argv: ['cert', 'register', join(import.meta.dirname, 'registry.test.ts'), '--device', 'cam-1'],
    answer: { ...certificate, kind: 'foreign', issuer: 'CN=Other', issuerSerial: '02' },
    asked: { method: 'POST', path: '/v1/certificates' },
    shown: /kind +foreign\n[\s\S]*issuer +CN=Other\nissuer serial +02\n/,
  },
  {
    argv: ['cert', 'show', '0A:1B'],
    answer: certificate,
    asked: { path: '/v1/certificates/0a1b' },
    shown: /subject +CN=cam<U\+202E>-1\n[\s\S]*PEM\n$/,
  },
  {
    argv: ['status'],
    answer: {
      version: '0.1.0',
      startedAt: at,
      rootFingerprint: 'ab',
      feedSeq: 7,
      configuration: { refused: 'f:1:2: one\nf:3:4: other', waitsForRestart: ['names', 'broker.id'] },
      brokers: [
        { id: 'broker-1', connected: false, appliedSeq: 5, lastSeenAt: at },
        { id: 'broker-2', connected: false, appliedSeq: 5, lastSeenAt: at, admitsUntil: 'then', servesUntil: null },
        { id: 'broker-3', connected: false, appliedSeq: 5, lastSeenAt: at, admitsUntil: null, servesUntil: null },
        { id: 'broker-4', connected: true, appliedSeq: 7, lastSeenAt: at, admitsUntil: 'then', servesUntil: null },
      ],
    },
    asked: { path: '/v1/status' },
    shown:
      /refused +f:1:2: one\nrefused +f:3:4: other\nneeds a restart +names, broker\.id\n[\s\S]*broker-1 +no +5 of 7 +\S+ +not known\n.* then\n.* no end\nbroker-4 +yes +7 of 7 +\S+ +-\n/,
  },
  {
    argv: ['enroll', 'approvals', 'ls'],
    answer: { items: [approval] },
    asked: { path: '/v1/approvals', query: { decision: 'pending', limit: '1000' } },
    shown: /^REQUEST .*\nabababababab +cam-1 +camera +line +192\.0\.2\.7 .*pending\n$/,
  },
  {
    argv: ['enroll', 'approvals', 'approve', approval.id, '--group', 'hall'],
    answer: { ...approval, decision: 'approved', decidedAt: at, decidedBy: 'operator:operator' },
    asked: { method: 'GET', path: `/v1/approvals/${approval.id}` },
    shown: /decided +2026.* by operator:operator\n/,
  },
  {
    argv: ['crl', 'ls'],
    answer: { items: [] },
    asked: { path: '/v1/crls' },
    shown: /^none are served; enroll\.status\.url of the configuration/,
  },
  {
    argv: ['broker', 'forget', 'broker-1'],
    answer: { id: 'broker-1', certificates: ['0a1b'] },
    asked: { method: 'DELETE', path: '/v1/brokers/broker-1' },
    shown: /forgotten +broker-1\nrevoked +0a1b\n/,
  },
]

for (const { argv, answer, asked, shown } of cases) {
  test(`${argv.join(' ')} asks the admin API and shows its answer`, async () => {
    await using stub = await StubAdmin.start(() => ok(answer))
    const { code, out, err } = await fleetgate([...argv, '--data', stub.dataDir])
    assert.deepEqual([code, err], [0, ''])
    assert.match(out, shown)
    for (const [part, value] of Object.entries(asked))
      assert.deepEqual(stub.requests[0]![part as keyof AdminRequest], value)
  })
}

test('device set puts into groups and takes out of them, at the revision that it has seen; --dry-run shows what would be another', async () => {
  const answer = ({ method }: AdminRequest): AdminAnswer => ({
    status: 200,
    body: method === 'GET' ? device : { ...device, groups: ['hall', 'roof'] },
    headers: { ETag: '"7"' },
  })
  await using stub = await StubAdmin.start(answer)
  const set = ['device', 'set', 'cam-1', '--group', 'roof', '--group', 'hall', '--ungroup', 'berlin']
  const done = await fleetgate([...set, '--data', stub.dataDir])
  assert.match(done.out, /groups +hall, roof\n/)
  const foreseen = await fleetgate([...set, '--dry-run', '--data', stub.dataDir])
  assert.match(foreseen.out, /^WHAT +IS +WOULD BE\ngroups +berlin, hall +hall, roof\nnothing was changed\n$/)
  const { after } = JSON.parse((await fleetgate([...set, '--dry-run', '-o', 'json', '--data', stub.dataDir])).out)
  assert.deepEqual(after.groups, ['hall', 'roof'])
  const writes = stub.requests.filter(({ method }) => method === 'PATCH')
  assert.deepEqual(
    writes.map(({ body, headers }) => [body, headers['if-match']]),
    [[{ groups: ['hall', 'roof'] }, '"7"'], ...Array(2).fill([{ groups: ['hall', 'roof'], dryRun: true }, '"7"'])],
  )
})

test('-o json prints the answer as the contract has it', async () => {
  await using stub = await StubAdmin.start(({ path }) => ok(path === '/v1/devices' ? { items: [device] } : device))
  const one = await fleetgate(['device', 'show', 'cam-1', '-o', 'json', '--data', stub.dataDir])
  assert.deepEqual(JSON.parse(one.out), device)
  const all = await fleetgate(['device', 'ls', '-o', 'json', '--data', stub.dataDir])
  assert.deepEqual(JSON.parse(all.out), { items: [device] })
})

test('enroll has options of its own, and leaves those of approvals to them', async () => {
  await using stub = await StubAdmin.start(() => ok({ items: [approval] }))
  const { out } = await fleetgate(['enroll', 'approvals', 'ls', '--all', '-o', 'json', '--data', stub.dataDir])
  assert.deepEqual(JSON.parse(out), { items: [approval] })
  assert.deepEqual(stub.requests[0]!.query, { limit: '1000' })
})

test('a request that waits is found by its first digits, when they are of one alone', async () => {
  const other = { ...approval, id: `${'ab'.repeat(4)}${'0'.repeat(56)}` }
  await using stub = await StubAdmin.start(({ method }) =>
    method === 'GET' ? ok({ items: [approval, other] }) : ok({ ...approval, decision: 'denied', reason: 'not ours' }),
  )
  const deny = (id: string) =>
    fleetgate(['enroll', 'approvals', 'deny', id, '--reason', 'not ours', '--data', stub.dataDir])
  const denied = await deny('ABABABABAB')
  assert.deepEqual([denied.code, denied.err], [0, ''])
  const { path, body } = stub.requests.at(-1)!
  assert.deepEqual([path, body], [`/v1/approvals/${approval.id}/deny`, { reason: 'not ours' }])
  const two = await deny('abababab')
  assert.deepEqual([two.code, two.err], [3, 'error: 2 requests begin with abababab (conflict); give more digits\n'])
  const none = await deny('cccccccc')
  assert.deepEqual([none.code, none.err], [3, 'error: no request begins with cccccccc (approval_unknown)\n'])
  assert.equal((await deny('xyz')).code, 2)
})

test('cert ls --device shows the certificates of a device, and says so when there is no such device', async () => {
  await using stub = await StubAdmin.start(({ path }) => {
    if (path === '/v1/certificates') return ok({ items: [certificate] })
    return path.endsWith('/cam-1') ? ok(device) : problem(404, 'device_unknown', 'There is no device nope')
  })
  const known = await fleetgate(['cert', 'ls', '--device', 'cam-1', '--data', stub.dataDir])
  assert.match(known.out, /0a1b +device +cam-1 +camera +issued/)
  assert.deepEqual(stub.requests[1]!.query, { deviceId: 'cam-1', limit: '1000' })
  const unknown = await fleetgate(['cert', 'ls', '--device', 'nope', '--data', stub.dataDir])
  assert.deepEqual([unknown.code, unknown.out], [3, ''])
  assert.match(unknown.err, /There is no device nope \(device_unknown\)/)
})

test('cert revoke asks whose it is: a device keeps its others, and the last operator has to be confirmed', async () => {
  const revoked = { serial: '0a1b', isCurrent: true, certificates: ['0a1b', '0a1c'], remaining: [], keysWatched: 1 }
  const broker = { broker: 'edge-1', connected: false, confirmed: false, admitsUntil: 'THEN', servesUntil: null }
  const credential = { ...revoked, name: 'edge-1', reason: 'keyCompromise', revokedAt: at, alreadyRevoked: false }
  let kind = 'device'
  await using stub = await StubAdmin.start(({ path, body }) => {
    if (path === '/v1/certificates/0a1b') return ok({ ...certificate, kind })
    if (path === '/v1/certificates/0a1b/revoke') return ok({ ...receipt, ...revoked })
    const { lastOperator } = body as { lastOperator: boolean }
    if (kind === 'operator' && !lastOperator) return problem(409, 'last_operator', 'nobody is left; to get back in, X')
    return ok({ ...credential, kind, connectionsEnded: 2, feedSeq: 9, ...(kind === 'broker' ? { broker } : {}) })
  })
  const revoke = (readLine: () => Promise<string>, ...more: string[]) => {
    const argv = ['cert', 'revoke', '0A:1B', '--reason', 'keyCompromise', ...more, '--data', stub.dataDir]
    return fleetgate(argv, { readLine })
  }
  const never = () => assert.fail('nothing is to be confirmed')
  const device = await revoke(never)
  assert.match(
    device.out,
    /^certificate +0a1b \(the current one of cam-1\)\n[\s\S]*same key +0a1c\ndevice still has +none/,
  )
  assert.deepEqual(stub.requests.at(-1)!.body, { reason: 'keyCompromise', waitMs: 10_000 })
  kind = 'broker'
  const ofBroker = await revoke(never)
  assert.match(ofBroker.out, /broker +edge-1\n[\s\S]*still has +no other certificate\n[\s\S]*connections ended +2\n/)
  assert.match(ofBroker.out, /broker +not connected: if it still runs, it lets in whom it knew before until THEN, /)
  kind = 'operator'
  const refused = await revoke(async () => 'yes')
  assert.deepEqual([refused.code, refused.out], [3, ''])
  assert.match(refused.err, /0a1b counts: nobody is left \(last_operator\); to get back in, X\n$/)
  assert.equal((await revoke(async () => '0a1b\n')).code, 0)
  assert.equal((await revoke(never, '--yes')).code, 0)
  assert.deepEqual(stub.requests.at(-1)!.body, { reason: 'keyCompromise', waitMs: 10_000, lastOperator: true })
})

test('cert verify shows the verdict of each listener and of a renewal, with what would change it; refused is exit code 3', async () => {
  const { certificatePem } = await createSelfSigned({
    ...{ commonName: 'cam-1', notBefore: new Date(at), notAfter: new Date('2036-01-01T00:00:00Z') },
  })
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
  using _ = { [Symbol.dispose]: () => rmSync(folder, { recursive: true }) }
  const file = join(folder, 'cam-1.crt')
  writeFileSync(file, parsePem(certificatePem, 'CERTIFICATE')[0]!)
  const fix = { kind: 'command', text: 'take that back', command: ['device', 'enable', 'cam-1'] }
  const held = { state: 'held', action: 'reject', isAdmitted: false, code: 'device_held', asks: [], fix }
  const message = 'device cam\u202e-1 is on hold'
  const one = { ...held, broker: 'broker-1', listener: 'mqtts', deviceId: 'cam-1', authority: 'fleetgate', message }
  const tolerated = { ...one, listener: 'lab', action: 'log-only', isAdmitted: true, asks: ['a password'] }
  const renewal = { isAllowed: false, code: 'device_held', message: 'cam-1 is on hold', fix }
  let brokers: object[] = [one]
  await using stub = await StubAdmin.start(() => ok({ fingerprint: 'ab', brokers, unheard: [away], renewal }))
  const verify = (...more: string[]) => fleetgate(['cert', 'verify', file, ...more, '--data', stub.dataDir])
  const refused = await verify()
  assert.equal(refused.code, 3)
  assert.deepEqual(stub.requests[0]!.body, { pem: certificatePem })
  assert.equal(
    refused.out,
    `SHA-256    ab
device     cam-1
issued by  fleetgate

BROKER    LISTENER  VERDICT  FOUND  CODE         UNTIL
broker-1  mqtts     refused  held   device_held  -
broker-2 has not said what it would do (not_asked)

why      device cam<U+202E>-1 is on hold
renewal  refused: cam-1 is on hold (device_held)

fix  take that back
  npx fleetgate device enable cam-1 --data ${stub.dataDir}
`,
  )
  assert.match(refused.err, /^error: broker-1 does not admit \S+: device cam<U\+202E>-1 is on hold \(device_held\)\n$/)
  brokers = [one, tolerated]
  const admitted = await verify()
  assert.deepEqual([admitted.code, admitted.err], [0, ''])
  assert.match(admitted.out, /lab +admitted \(log-only\) +held[\s\S]*asked too +a password \(lab\)/)
  assert.equal((await verify('--listener', 'mqtts', '-o', 'json')).code, 3)
  assert.match(
    (await verify('--listener', 'x')).err,
    /no broker has a listener x \(not_found\); there are mqtts, lab\n/,
  )
  brokers = []
  const unsaid = await verify()
  assert.deepEqual([unsaid.code, unsaid.out], [1, ''])
  assert.match(unsaid.err, /no broker has said what it would do: broker-2 \(not_asked\) \(unavailable\)/)
  assert.equal((await fleetgate(['cert', 'verify', join(folder, 'none'), '--data', stub.dataDir])).code, 2)
})

test('a revocation that not every broker has confirmed in time is exit code 1 and names the broker', async () => {
  const gone = { connected: false, confirmed: false }
  const brokers = [
    { broker: 'broker-1', ...gone },
    { broker: 'broker-2', ...gone, admitsUntil: 'THEN', servesUntil: null },
  ]
  await using stub = await StubAdmin.start(() => ok({ ...receipt, inForce: false, brokers }))
  const argv = ['device', 'revoke', 'cam-1', '--reason', 'keyCompromise', '--timeout', '2s', '--data', stub.dataDir]
  const waited = await fleetgate(argv)
  assert.equal(waited.code, 1)
  assert.match(waited.out, /broker-1 +not connected: if it still runs, it goes on with what it knew before\n/)
  const bounded =
    /broker-2 .*lets in whom it knew before until THEN, and goes on with sessions until it hears of this\n/
  assert.match(waited.out, bounded)
  assert.ok(
    waited.err.startsWith(
      'error: cam-1 is revoked, but broker-1, broker-2 has not confirmed within 2000 ms (unavailable); ',
    ) &&
      waited.err.endsWith(
        `ask again: npx fleetgate device revoke cam-1 --reason keyCompromise --data ${stub.dataDir}\n`,
      ),
  )
  const unwaited = await fleetgate([...argv, '--no-wait'])
  assert.deepEqual([unwaited.code, unwaited.err], [0, ''])
  assert.deepEqual(
    stub.requests.map(({ body }) => body),
    [
      { reason: 'keyCompromise', waitMs: 2_000 },
      { reason: 'keyCompromise', waitMs: 0 },
    ],
  )
})

test('sessions are listed page by page; a client id that nobody has is refused, with the brokers that did not say', async () => {
  await using stub = await StubAdmin.start(({ path, query }) => {
    if (path !== '/v1/sessions') return ok(device)
    const next = query.after === undefined ? { next: 'cam-1\nbroker-1' } : {}
    return ok({ items: [session], unheard: query.after === undefined ? [] : [away], ...next })
  })
  const all = await fleetgate(['session', 'ls', '--device', 'cam-1', '-o', 'json', '--data', stub.dataDir])
  assert.deepEqual(JSON.parse(all.out), { items: [session, session], unheard: [away] })
  assert.equal(stub.requests.at(-1)!.query.after, 'cam-1\nbroker-1')
  const none = await fleetgate(['session', 'show', 'cam-1:x', '--data', stub.dataDir])
  assert.deepEqual([none.code, none.out], [3, ''])
  assert.match(none.err, /no live session has the client id cam-1:x \(not_found\); broker-2 is of a version/)
  assert.equal((await fleetgate(['session', 'kick', '#', '--data', stub.dataDir])).code, 2)
})
