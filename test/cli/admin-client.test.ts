import assert from 'node:assert/strict'
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { AdminClient, openAdminClient } from '../../cli/admin-client.ts'
import { endpointsFile } from '../../runtime/endpoints.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import { TestPki } from '../harness/certificates.ts'
import { type AdminAnswer, problem, StubAdmin } from '../harness/stub-admin.ts'

const device = { id: 'cam-1', profile: 'camera', groups: [], status: 'active', createdAt: '2026-01-01T00:00:00Z' }
const ok = (body: unknown): AdminAnswer => ({ status: 200, body })

test('it shows the operator certificate and asks for what the contract says', async () => {
  await using stub = await StubAdmin.start(() => ({ status: 201, body: device }))
  using client = openAdminClient(stub.dataDir)
  assert.deepEqual(await client.createDevice({ id: 'cam-1', profile: 'camera' }), device)
  const [request] = stub.requests
  assert.equal(request!.peer, 'operator')
  assert.deepEqual([request!.method, request!.path], ['POST', '/v1/devices'])
  assert.deepEqual(request!.body, { id: 'cam-1', profile: 'camera' })
  assert.match(String(request!.headers['idempotency-key']), /^[A-Za-z0-9-]{8,64}$/)
})

test('a write whose connection breaks is sent once more with the same key', async () => {
  await using stub = await StubAdmin.start((_, count) => (count === 1 ? 'break' : ok(device)))
  using client = openAdminClient(stub.dataDir)
  await client.createDevice({ id: 'cam-1', profile: 'camera' })
  const keys = stub.requests.map(({ headers }) => headers['idempotency-key'])
  assert.equal(keys.length, 2)
  assert.equal(keys[0], keys[1])
})

test('a connection that breaks twice is told as such, with what to do', async () => {
  await using stub = await StubAdmin.start(() => 'break')
  using client = openAdminClient(stub.dataDir)
  await assert.rejects(client.createDevice({ id: 'cam-1', profile: 'camera' }), (error) => {
    assert.ok(isFleetError(error, 'unavailable'))
    assert.match(error.message, /broke the connection; is it running there\? \S+endpoints\.json says where it is asked/)
    return true
  })
  assert.equal(stub.requests.length, 2)
})

test('lists are read page by page to their end', async () => {
  await using stub = await StubAdmin.start(({ query }) => {
    if (query.cursor === undefined) return ok({ items: [device], next: 'cam-1' })
    return ok({ items: [{ ...device, id: 'cam-2' }] })
  })
  using client = openAdminClient(stub.dataDir)
  const devices = await client.listDevices({ profile: 'camera' })
  assert.deepEqual(
    devices.map(({ id }) => id),
    ['cam-1', 'cam-2'],
  )
  assert.deepEqual(
    stub.requests.map(({ query }) => query),
    [
      { profile: 'camera', limit: '1000' },
      { profile: 'camera', cursor: 'cam-1', limit: '1000' },
    ],
  )
})

test('a problem keeps its code and sentence, and 4xx counts as refused', async () => {
  await using stub = await StubAdmin.start(({ path }) =>
    path.endsWith('/cam-9')
      ? problem(404, 'device_unknown', 'There is no device cam-9')
      : problem(503, 'unavailable', 'later'),
  )
  using client = openAdminClient(stub.dataDir)
  const refused = await client.getDevice('cam-9').catch((error) => error)
  assert.ok(refused instanceof FleetError)
  assert.deepEqual(
    [refused.code, refused.message, refused.context.refused],
    ['device_unknown', 'There is no device cam-9', true],
  )
  const failed = await client.getDevice('cam-8').catch((error) => error)
  assert.deepEqual([failed.code, failed.context.refused], ['unavailable', false])
})

test('an error that is no problem document is known by its status', async () => {
  await using stub = await StubAdmin.start(() => ({ status: 418, body: 'tea' }))
  using client = openAdminClient(stub.dataDir)
  await assert.rejects(client.status(), (error) => {
    assert.ok(isFleetError(error, 'request_malformed'))
    assert.equal(error.message, 'the gateway answered 418')
    return true
  })
})

test('an answer of another shape is not passed on', async () => {
  await using stub = await StubAdmin.start(() => ok({ id: 7 }))
  using client = openAdminClient(stub.dataDir)
  await assert.rejects(client.getDevice('cam-1'), /is not of this version/)
})

test('a server that is not enroll of this root is not spoken to', async () => {
  await using named = await StubAdmin.start(() => ok(device), { serverName: 'broker' })
  using client = openAdminClient(named.dataDir)
  await assert.rejects(client.getDevice('cam-1'), (error) => isFleetError(error, 'unavailable'))
  await using foreign = await StubAdmin.start(() => ok(device))
  const another = await TestPki.create('Another')
  writeFileSync(foreign.endpoints.rootCertificate, another.root.pem)
  using misled = openAdminClient(foreign.dataDir)
  await assert.rejects(misled.getDevice('cam-1'), (error) => isFleetError(error, 'unavailable'))
  assert.deepEqual([named.requests, foreign.requests], [[], []])
})

test('a data folder without endpoints.json says that no gateway runs there and how to start it', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
  assert.throws(() => openAdminClient(folder), {
    code: 'unavailable',
    message: `No gateway runs on ${folder} (there is no ${endpointsFile(folder)}); start it: npx fleetgate up --data ${folder}`,
  })
  writeFileSync(endpointsFile(folder), '{"est":1}')
  assert.throws(() => openAdminClient(folder), { code: 'data_damaged' })
  rmSync(folder, { recursive: true })
})

test('a gateway that is gone is told as refusing connections', async () => {
  await using stub = await StubAdmin.start(() => ok(device))
  // As a gateway's own folder has it.
  mkdirSync(join(stub.dataDir, 'enroll'))
  using client = new AdminClient({ ...stub.endpoints, admin: 'https://127.0.0.1:1' }, stub.dataDir)
  await assert.rejects(client.status(), {
    code: 'unavailable',
    message: `the gateway at https://127.0.0.1:1 refuses connections; is it running? start it: npx fleetgate up --data ${stub.dataDir}`,
  })
})

test('an operator key that others can read is not used', async () => {
  await using stub = await StubAdmin.start(() => ok(device))
  chmodSync(stub.endpoints.operatorKey!, 0o644)
  assert.throws(() => openAdminClient(stub.dataDir), { code: 'key_permissions' })
})
