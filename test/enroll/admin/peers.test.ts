import assert from 'node:assert/strict'
import { after, before, suite, test } from 'node:test'
import { startCursor } from '../../../contract/feed.ts'
import { parseCertificate, parsePem, toPem } from '../../../pki/certificate.ts'
import { createKeyAndCsr } from '../../../pki/x509.ts'
import { EnrollHarness, movableClock } from '../../harness/fleet.ts'
import { followFeed } from '../../harness/follower.ts'

const day = 86_400_000
type Shown = { key: string; cert: string }

suite('brokers and operators who are to go on for years', () => {
  // Behind by so much that what is made at first is due for renewal at the time of OpenSSL's clock.
  const clock = movableClock(new Date(Date.now() - 250 * day))
  let fleet: EnrollHarness
  before(async () => {
    fleet = await EnrollHarness.start({ clock: clock.now })
  })
  after(() => fleet[Symbol.asyncDispose]())

  const request = async (): Promise<{ key: string; csr: string }> => {
    const { privateKeyPem, csrDer } = await createKeyAndCsr({ commonName: 'whatever' })
    return { key: privateKeyPem, csr: toPem(csrDer, 'CERTIFICATE REQUEST') }
  }
  const create = (id: string, csr: string, names = ['localhost']) => fleet.admin('POST', '/brokers', { id, names, csr })
  const made = async (id: string, names?: string[]): Promise<Shown> => {
    const { key, csr } = await request()
    const { status, body } = await create(id, csr, names)
    assert.equal(status, 201, JSON.stringify(body))
    return { key, cert: body.certificate }
  }
  const follow = (shown: Shown, more = {}) => followFeed(fleet, startCursor, shown, { renews: true, ...more })
  const listed = async (id: string) =>
    (await fleet.admin('GET', '/brokers')).body.items.find((one: { id: string }) => one.id === id)
  const factsOf = (pem: string) => parseCertificate(parsePem(pem, 'CERTIFICATE')[0]!)

  const ask = (shown: Shown, path?: string, body?: object) => fleet.adminAs(shown, path, body)

  test('one that is made follows under its name, and is waited for from then on, not before', async () => {
    const shown = await made('edge-2', ['mqtt-2.example', '192.0.2.7', '2001:db8::7'])
    const { subjectAltName, extendedKeyUsage } = factsOf(shown.cert)
    assert.deepEqual([subjectAltName.dns, subjectAltName.ips.length], [['mqtt-2.example'], 2])
    assert.deepEqual(extendedKeyUsage, ['serverAuth', 'clientAuth'])
    const { connected, appliedSeq, names, expiresAt } = await listed('edge-2')
    assert.deepEqual([connected, appliedSeq, names.length], [false, undefined, 3])
    assert.equal(expiresAt, factsOf(shown.cert).notAfter.toISOString())
    assert.deepEqual((await fleet.admin('GET', '/status')).body.brokers, [])

    await using feed = await follow(shown)
    await feed.see(({ kind }) => kind === 'live')
    assert.equal((await listed('edge-2')).connected, true)
    assert.deepEqual(
      (await fleet.admin('GET', '/status')).body.brokers.map(({ id }: { id: string }) => id),
      ['edge-2'],
    )
    const { items } = (await fleet.admin('GET', '/audit?limit=1000')).body
    const entry = items.find(({ action }: { action: string }) => action === 'broker.created')
    assert.deepEqual([entry.actor, entry.subject], ['operator:operator', 'broker:edge-2'])
  })

  test('a name is of one broker at a time, the same request has one effect, and of two at once one is made', async () => {
    const { csr } = await request()
    const [first, again] = [await create('edge-3', csr), await create('edge-3', csr)]
    assert.equal((await create('edge-3', csr, ['other.example'])).status, 409)
    assert.deepEqual([first.status, again.body], [201, first.body])
    const other = (await request()).csr
    const refused = [
      await create('edge-3', other),
      await create('broker-1', other),
      await create('-x', other),
      await create('edge-4', other, []),
      await create('edge-4', other, ['a..b']),
      await create('edge-4', other, ['::::']),
      await create('edge-4', other, ['localhost', 'Enroll.fleetgate.internal']),
      await create('edge-4', 'x'),
    ]
    assert.deepEqual(
      refused.map(({ body }) => body.code),
      ['conflict', 'conflict', ...Array(5).fill('request_malformed'), 'csr_malformed'],
    )
    assert.match(refused[0]!.body.detail, /edge-3 has a certificate until .*; take another name, or end it first: /)
    const race = await Promise.all([create('edge-5', csr), create('edge-5', other)])
    assert.deepEqual(race.map(({ status }) => status).toSorted(), [201, 409])
  })

  test('with a third of its life left it is given another certificate for its key, once, which takes its place', async () => {
    const shown = await made('edge-6', ['localhost', '2001:db8::7'])
    const fresh = await follow(shown)
    await fresh.see(({ kind }) => kind === 'live')
    assert.equal(
      fresh.messages.some(({ kind }) => kind === 'credential'),
      false,
    )
    await fresh[Symbol.asyncDispose]()
    clock.advance(250 * day)
    const given = async (credential: Shown): Promise<string> => {
      await using feed = await follow(credential)
      const message = await feed.see(({ kind }) => kind === 'credential')
      assert.ok(message?.kind === 'credential')
      return message.certificate
    }
    const next = await given(shown)
    const [before, now] = [factsOf(shown.cert), factsOf(next)]
    assert.deepEqual([now.subject.der, now.subjectAltName], [before.subject.der, before.subjectAltName])
    assert.ok(now.publicKeySpki.equals(before.publicKeySpki) && now.notAfter > before.notAfter)
    assert.equal(await given(shown), next, 'one that could not keep it is given the same')

    await using current = await follow({ ...shown, cert: next })
    await current.see(({ kind }) => kind === 'live')
    // One that is of an older version is told nothing that it does not know.
    await using older = await followFeed(fleet, startCursor, shown)
    await older.see(({ kind }) => kind === 'live')
    older.send({ kind: 'ping', id: 1 })
    await older.see(({ kind }) => kind === 'pong')
    for (const { messages } of [current, older])
      assert.equal(messages.filter((one) => one.kind === 'credential').length, 0)
    const { items } = (await fleet.admin('GET', '/audit?limit=1000')).body
    assert.equal(
      items.filter(({ actor }: { actor: string }) => actor === 'broker:edge-6').length,
      2,
      'joined, and issued',
    )
  })

  test('one whose certificate is revoked is given none, and one that is forgotten can be made again', async () => {
    const shown = await made('edge-7')
    await fleet.admin('POST', `/credentials/${factsOf(shown.cert).serial}/revoke`, { reason: 'keyCompromise' })
    await using refused = await follow(shown)
    assert.deepEqual(await refused.see(() => true), { kind: 'refused', code: 'certificate_revoked' })
    assert.equal(await listed('edge-7'), undefined)
    const sameKey = await createKeyAndCsr({ commonName: 'x' })
    const csr = toPem(sameKey.csrDer, 'CERTIFICATE REQUEST')
    const again = { key: sameKey.privateKeyPem, cert: (await create('edge-7', csr)).body.certificate }
    const { body } = await fleet.admin('DELETE', '/brokers/edge-7')
    assert.deepEqual(body, { id: 'edge-7', certificates: [factsOf(again.cert).serial] })
    await using gone = await follow(again)
    assert.deepEqual(await gone.see(() => true), { kind: 'refused', code: 'certificate_revoked' })
    assert.equal((await fleet.admin('DELETE', '/brokers/edge-7')).status, 404)
    // The broker of the data folder goes on with what enroll keeps there.
    assert.equal((await fleet.admin('DELETE', '/brokers/broker-1')).status, 404)
    assert.ok((await listed('broker-1')).serial)
    assert.equal((await create('edge-7', (await request()).csr)).status, 201)
  })

  test('a key that is in other hands gets no certificate', async () => {
    const { csr } = await request()
    const { certificate } = (await create('edge-8', csr)).body
    await fleet.admin('POST', `/credentials/${factsOf(certificate).serial}/revoke`, { reason: 'keyCompromise' })
    const { status, body } = await create('edge-8', csr)
    assert.deepEqual([status, body.code], [403, 'key_compromised'])
  })

  test('until the new one is shown the former is good, so that an answer that is lost locks nobody out', async () => {
    const ben = await fleet.newOperator('ben', 'viewer')
    const renew = async () => {
      const { key, csr } = await request()
      return { key, cert: (await ask(ben, '/operators/ben/renew', { csr })).certificate }
    }
    const [lost, kept] = [await renew(), await renew()]
    assert.equal((await ask(ben)).status, 200)
    const first = await Promise.all([ask(kept), ask(kept)])
    assert.deepEqual(
      first.map(({ status }) => status),
      [200, 200],
    )
    assert.deepEqual([(await ask(ben)).code, (await ask(lost)).code], Array(2).fill('certificate_revoked'))
  })
})
