import assert from 'node:assert/strict'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { Agent } from 'node:https'
import { join } from 'node:path'
import { after, before, suite, test } from 'node:test'
import { connect, type TLSSocket } from 'node:tls'
import { startCursor } from '../../../contract/feed.ts'
import { parseCertificate, parsePem } from '../../../pki/certificate.ts'
import { splitAddress } from '../../../runtime/config.ts'
import { type DeviceKeys, EnrollHarness, movableClock, testConfiguration } from '../../harness/fleet.ts'
import { brokerCredential, followFeed } from '../../harness/follower.ts'

const requests = [
  ['GET', '/status'],
  ['HEAD', '/status'],
  ['POST', '/devices'],
  ['PUT', '/policy'],
  ['PATCH', '/devices/cam-1'],
  ['DELETE', '/brokers/edge-1'],
] as const

suite('certificates of operators and brokers', () => {
  // Behind, so that what is issued after it was moved is valid by the clock of OpenSSL too.
  const clock = movableClock(new Date(Date.now() - 600_000))
  let fleet: EnrollHarness
  let device: DeviceKeys
  before(async () => {
    fleet = await EnrollHarness.start({
      clock: clock.now,
      config: testConfiguration({ enroll: { status: { listen: '127.0.0.1:0', url: 'http://status.test' } } }),
    })
    device = await fleet.enrolledDevice('cam-1')
  })
  after(() => fleet[Symbol.asyncDispose]())

  type Subject = { subject: string }
  type Shown = { key: string; cert: string }
  const of = async (kind: string): Promise<string[]> => {
    const { items } = (await fleet.admin('GET', '/certificates?limit=1000')).body
    return items.flatMap((one: { kind: string; status: string; serial: string }) =>
      one.kind === kind && one.status === 'issued' ? [one.serial] : [],
    )
  }
  const serialOf = ({ cert }: Shown): string => parseCertificate(parsePem(cert, 'CERTIFICATE')[0]!).serial
  const revoke = (serial: string, more: object = {}) =>
    fleet.admin('POST', `/credentials/${serial}/revoke`, { reason: 'keyCompromise', ...more })
  const ask = async (credential: Shown, method = 'GET', path = '/status') => {
    const { status, body } = await fleet.ask(`${fleet.endpoints.admin}/v1${path}`, { method, ...credential })
    return [status, body === '' ? undefined : JSON.parse(body).code]
  }
  /** A key and certificate whose files are gone are made anew by the next start. */
  const restartWithout = async (...files: string[]): Promise<void> => {
    await fleet.close()
    for (const file of files) rmSync(join(fleet.dataDir, file))
    await fleet.open()
  }
  /** A connection that has had an answer, and says nothing more. */
  const greeted = async (credential: Shown): Promise<TLSSocket> => {
    const { host, port } = splitAddress(fleet.endpoints.admin.replace('https://', ''))
    const socket = connect({ host, port, ca: fleet.root, ...credential }).on('error', () => {})
    socket.write('GET /v1/status HTTP/1.1\r\nHost: admin\r\n\r\n')
    await once(socket, 'data')
    return socket
  }
  const audited = async (action: string) => {
    const { items } = (await fleet.admin('GET', '/audit?limit=1000')).body
    return items.filter((entry: { action: string }) => entry.action === action)
  }

  test('one of an operator ends its connections, and is refused by every method from then on', async () => {
    const before = await of('operator')
    const ann = await fleet.newOperator('ann', 'admin')
    const serial = (await of('operator')).find((one) => !before.includes(one))
    using agent = Object.assign(new Agent({ keepAlive: true, ca: fleet.root, ...ann }), {
      [Symbol.dispose]: () => agent.destroy(),
    })
    const kept = { ...ann, agent }
    assert.deepEqual(await ask(kept), [200, undefined])
    const [silent, waiting] = [await greeted(ann), await greeted(ann)]
    const closed = Promise.all([once(silent, 'close'), once(waiting, 'close')])
    waiting.write('GET /v1/audit?after=100000&waitMs=30000 HTTP/1.1\r\nHost: admin\r\n\r\n')

    const { status, body } = await revoke(serial!, { waitMs: 60_000 })
    assert.equal(status, 200, JSON.stringify(body))
    const { kind, name, isCurrent, certificates, remaining, keysWatched, connectionsEnded, crlNumber } = body
    assert.deepEqual([kind, name, isCurrent, keysWatched], ['operator', 'ann', true, 1])
    assert.deepEqual([certificates, remaining, connectionsEnded], [[serial], [], 3])
    await closed
    for (const [method, path] of requests) {
      const code = method === 'HEAD' ? undefined : 'certificate_revoked'
      assert.deepEqual(await ask(kept, method, path), [403, code], method)
    }

    assert.ok(crlNumber > 0)
    const lists = (await fleet.admin('GET', '/status')).body.revocationLists
    assert.equal(lists.number, crlNumber)
    const told = await audited('receipt.given')
    assert.deepEqual([told[0].subject, told[0].details.connectionsEnded], [`certificate:${serial}`, 3])
    const alerts = await audited('alert.raised')
    assert.partialDeepStrictEqual(alerts, [
      { subject: `certificate:${serial}`, details: { kind: 'key_reused', path: 'admin', where: 'handshake' } },
    ])
    const again = (await revoke(serial!, { reason: 'superseded' })).body
    assert.deepEqual([again.alreadyRevoked, again.reason, again.certificates], [true, 'keyCompromise', []])
  })

  test('one of a broker ends its line to enroll, and every next one with the reason', async () => {
    await using feed = await followFeed(fleet, startCursor)
    await feed.see(({ kind }) => kind === 'live')
    const [serial] = await of('broker')
    const { body } = await revoke(serial!, { reason: 'superseded' })
    assert.deepEqual([body.kind, body.name, body.connectionsEnded, body.keysWatched], ['broker', 'broker-1', 1, 0])
    assert.deepEqual([body.broker.connected, body.broker.confirmed], [false, false])
    await feed.see(() => false)
    assert.ok(feed.socket.destroyed)
    const refused = { kind: 'refused', code: 'certificate_revoked' }
    for (const _ of [1, 2]) {
      await using again = await followFeed(fleet, startCursor)
      await again.see(() => false)
      assert.deepEqual(again.messages, [refused])
    }
    await restartWithout()
    await using after = await followFeed(fleet, startCursor)
    await after.see(() => false)
    assert.deepEqual(after.messages, [refused], 'no certificate takes its place by itself')
    const former = serialOf(fleet.operator)
    await restartWithout('services/broker/tls.key', 'services/broker/tls.crt', 'operator/operator.crt')
    await using renewed = await followFeed(fleet, startCursor)
    assert.equal((await renewed.see(({ kind }) => kind === 'live'))?.kind, 'live')
    const { isCurrent, remaining } = (await revoke(former, { reason: 'superseded' })).body
    assert.deepEqual([isCurrent, remaining], [false, [serialOf(fleet.operator)]], 'of two of one instant, the later')
  })

  test('a stolen key at the feed raises an alert and is evidence, whatever certificate it is in', async () => {
    const { incident } = (await fleet.admin('POST', '/devices/cam-1/stolen')).body
    const shown = async (credential: Shown) => {
      clock.advance(61_000)
      await using feed = await followFeed(fleet, startCursor, credential)
      await feed.see(() => false)
      for (;;) {
        const { evidence } = (await fleet.admin('GET', `/incidents/${incident}`)).body
        if (evidence.length > seen) return evidence.at(-1).details.path
      }
    }
    let seen = 1
    assert.equal(await shown({ key: device.key, cert: device.certificate }), 'feed')
    seen++
    clock.advance(61_000)
    assert.deepEqual(await ask({ key: device.key, cert: device.certificate }), [403, 'certificate_revoked'])
    await using known = await followFeed(fleet, startCursor, brokerCredential(fleet))
    assert.equal((await known.see(({ kind }) => kind === 'live'))?.kind, 'live', 'a key that is not watched is let in')
  })

  test('of devices and of enroll itself they are revoked otherwise', async () => {
    const [server] = await of('server')
    for (const [serial, code, sentence] of [
      [device.serial, 'conflict', /a certificate of a device \(cam-1\)/],
      [server, 'conflict', /a certificate of enroll itself \(server\): delete its file and key/],
      ['0a0b', 'certificate_unknown', /there is no certificate/],
      ['0', 'request_malformed', /a serial number is/],
    ] as const) {
      const { body } = await revoke(serial!)
      assert.equal(body.code, code)
      assert.match(body.detail, sentence)
    }
  })

  test('an operator who is disabled or removed is not connected any more', async () => {
    for (const [name, method, change] of [
      ['bea', 'PATCH', { status: 'disabled' }],
      ['cem', 'DELETE', undefined],
    ] as const) {
      const closed = once(await greeted(await fleet.newOperator(name, 'viewer')), 'close')
      assert.equal((await fleet.admin(method, `/operators/${name}`, change)).status, 200)
      await closed
    }
  })

  test('with an operator who is removed their certificate is revoked, and the API tokens they made are named', async () => {
    const dan = await fleet.newOperator('dan', 'admin')
    const serial = serialOf(dan)
    const made = (name: string, ttlMs: number) =>
      fleet.ask(`${fleet.endpoints.admin}/v1/api-tokens`, {
        ...{ method: 'POST', headers: { 'Content-Type': 'application/json' }, ...dan },
        body: JSON.stringify({ name, role: 'enroller', ttlMs }),
      })
    for (const [name, ttlMs] of [
      ['over', 60_000],
      ['lives', 120_000],
    ] as const)
      assert.equal((await made(name, ttlMs)).status, 201)
    clock.advance(60_000)
    const remove = (key: string) =>
      fleet.admin('DELETE', '/operators/dan', undefined, { 'Idempotency-Key': `remove-dan-${key}` })
    const { status, body } = await remove('1')
    assert.deepEqual([status, body.status, body.certificates], [200, 'removed', [serial]])
    assert.partialDeepStrictEqual(body.apiTokens, [{ name: 'lives', role: 'enroller' }])
    assert.deepEqual((await remove('1')).body, body, 'asked again, the same')
    assert.equal((await remove('2')).body.code, 'operator_unknown')
    assert.deepEqual(await ask(dan), [403, 'certificate_revoked'])
    const { items } = (await fleet.admin('GET', `/certificates?serial=${serial}`)).body
    assert.deepEqual([items[0].status, items[0].revocationReason], ['revoked', 'cessationOfOperation'])
    const [removed] = (await audited('operator.removed')).filter(({ subject }: Subject) => subject === 'operator:dan')
    assert.deepEqual(removed.details.certificates, [serial])
  })

  test('the last one in charge goes only when that is said, has its answer, and is not made again by itself', async () => {
    const first = (await of('operator'))[0]!
    const bob = await fleet.newOperator('bob', 'admin')
    const as = async (credential: Shown, method: string, path: string, body?: object) => {
      const json =
        body === undefined ? {} : { headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) }
      const answer = await fleet.ask(`${fleet.endpoints.admin}/v1${path}`, { method, ...json, ...credential })
      return { status: answer.status, body: JSON.parse(answer.body) }
    }
    const list = (await as(bob, 'GET', '/certificates?limit=1000')).body.items
    const named = (name: string) => list.find(({ subject }: { subject?: string }) => subject === `CN=${name}`).serial
    const end = (serial: string, more: object) =>
      as(bob, 'POST', `/credentials/${serial}/revoke`, { reason: 'keyCompromise', ...more })
    for (const serial of [first, named('operator')]) assert.equal((await end(serial, {})).status, 200)
    assert.equal((await as(bob, 'DELETE', '/operators/operator')).status, 200)
    const refused = await end(named('bob'), {})
    assert.deepEqual([refused.status, refused.body.code], [409, 'last_operator'])
    assert.match(refused.body.detail, /to get back in, somebody deletes operator.crt and operator.key/)
    const { status, body } = await end(named('bob'), { lastOperator: true })
    assert.deepEqual([status, body.remaining, body.connectionsEnded], [200, [], 1])
    assert.deepEqual(await ask(bob), [403, 'certificate_revoked'])
    await restartWithout('operator/operator.crt')
    await assert.rejects(async () => fleet.operator, { code: 'ENOENT' }, 'its key is not certified again')
    await restartWithout('operator/operator.key')
    assert.deepEqual(await ask(fleet.operator), [200, undefined])
    assert.partialDeepStrictEqual(await audited('operator.restored'), [
      { subject: 'operator:operator', actor: 'system' },
    ])
  })

  test('a connection to admin API or feed that stays ends when its certificate has expired, and no other', async () => {
    await using feed = await followFeed(fleet, startCursor)
    await feed.see(({ kind }) => kind === 'live')
    const expiring = await greeted(fleet.operator)
    clock.advance(60_000)
    const later = await greeted(await fleet.newOperator('eve', 'viewer'))
    const closed = Promise.all([once(expiring, 'close'), feed.see(() => false)])
    const certificates = [fleet.operator, brokerCredential(fleet)].map(({ cert }) => parsePem(cert, 'CERTIFICATE')[0]!)
    const ends = certificates.map((der) => parseCertificate(der).notAfter.getTime())
    clock.advance(Math.max(...ends) + 1 - clock.now().getTime())
    await closed
    later.write('GET /v1/status HTTP/1.1\r\nHost: admin\r\n\r\n')
    assert.match(String((await once(later, 'data'))[0]), /^HTTP\/1\.1 200 /)
    later.destroy()
  })
})
