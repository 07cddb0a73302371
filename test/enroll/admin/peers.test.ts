import assert from 'node:assert/strict'
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { after, before, suite, test } from 'node:test'
import { parse } from 'yaml'
import { lookAtCertificates } from '../../../cli/doctor/machine.ts'
import { expiryWarning } from '../../../cli/expiry.ts'
import { configuration } from '../../../contract/configuration.ts'
import { startCursor } from '../../../contract/feed.ts'
import { parseCertificate, parsePem, toPem } from '../../../pki/certificate.ts'
import { openKeyFile } from '../../../pki/keystore.ts'
import { createKeyAndCsr } from '../../../pki/x509.ts'
import { readEndpoints, writeEndpoints } from '../../../runtime/endpoints.ts'
import { TestPki } from '../../harness/certificates.ts'
import { EnrollHarness, movableClock } from '../../harness/fleet.ts'
import { followFeed } from '../../harness/follower.ts'
import { fleetgate } from '../../harness/stub-io.ts'

const day = 86_400_000
type Shown = { key: string; cert: string }

suite('brokers and operators who are to go on for years', () => {
  // Behind by so much that what is made at first is due for renewal at the time of OpenSSL's clock.
  const clock = movableClock(new Date(Date.now() - 250 * day))
  let fleet: EnrollHarness
  before(async () => {
    fleet = await EnrollHarness.start({ clock: clock.now })
    writeEndpoints(fleet.dataDir, { ...fleet.endpoints, mqtts: 'mqtts://localhost:1' })
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
    assert.deepEqual([first.status, again.body], [201, first.body])
    const other = (await request()).csr
    const refused = [
      await create('edge-3', other),
      await create('broker-1', other),
      await create('-x', other),
      await create('edge-4', other, []),
      await create('edge-4', other, ['a..b']),
      await create('edge-4', other, ['::::']),
      await create('edge-4', 'x'),
    ]
    assert.deepEqual(
      refused.map(({ body }) => body.code),
      ['conflict', 'conflict', ...Array(4).fill('request_malformed'), 'csr_malformed'],
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

  test('fleetgate broker create makes a folder that a broker starts from; ls shows it, forget ends it', async () => {
    const out = join(fleet.dataDir, 'handed over')
    const passphrase = join(fleet.dataDir, 'passphrase')
    writeFileSync(passphrase, 'of another machine\n')
    const own = (...words: string[]) => fleetgate(['broker', ...words, '--data', fleet.dataDir])
    const wanted = [
      'create',
      'edge-9',
      '--name',
      'mqtt-9.example',
      '--name',
      '192.0.2.9',
      '--feed',
      'enroll.example:9444',
    ]
    const { code, out: told, err } = await own(...wanted, '--out', out, '--passphrase-file', passphrase)
    assert.equal(code, 0, err)
    assert.match(
      told,
      /^broker +edge-9\nnames +mqtt-9.example, 192.0.2.9\n[\s\S]*npx fleetgate broker run --config '.*handed over\/fleetgate.yaml' --data /,
    )
    const { broker } = configuration.parse(parse(readFileSync(join(out, 'fleetgate.yaml'), 'utf8')))
    assert.deepEqual([broker.id, broker.feed], ['edge-9', 'enroll.example:9444'])
    const folder = join(out, 'services', 'broker')
    assert.deepEqual(readdirSync(folder).toSorted(), ['root.crt', 'tls.crt', 'tls.key'])
    assert.equal(statSync(join(folder, 'tls.key')).mode & 0o777, 0o600)
    assert.ok(openKeyFile(join(folder, 'tls.key'), 'of another machine'))
    assert.match((await own('ls')).out, /^edge-9 +no +never came .* 20\d\d-/m)
    const twice = await own(...wanted, '--out', out)
    assert.deepEqual([twice.code, /tls.crt is there already/.test(twice.err)], [1, true])
    const taken = await own(...wanted, '--out', join(fleet.dataDir, 'elsewhere'))
    assert.deepEqual([taken.code, /edge-9 has a certificate until/.test(taken.err)], [3, true])
    assert.match((await own('forget', 'edge-9')).out, /^forgotten +edge-9\nrevoked +[0-9a-f]{32}\n$/)
    for (const words of [
      ['create', 'a b', '--name', 'x', '--feed', 'x:1', '--out', 'x'],
      ['create', 'a', '--name', 'x..y', '--feed', 'x:1', '--out', 'x'],
      ['create', 'a', '--name', 'x', '--feed', 'x', '--out', 'x'],
      ['create', 'a', '--feed', 'x:1', '--out', 'x'],
    ]) {
      assert.equal((await own(...words)).code, 2)
    }
  })

  const from = (folder: string, ...words: string[]) => fleetgate([...words, '--data', folder])
  const own = (...words: string[]) => from(fleet.dataDir, ...words)
  const handedOver = async (name: string, role: string): Promise<string> => {
    const folder = join(fleet.dataDir, name)
    const { code, err } = await own('operator', 'create', name, '--role', role, '--out', folder)
    assert.equal(code, 0, err)
    return folder
  }
  const shownIn = (folder: string): Shown => {
    const { operatorKey, operatorCertificate } = readEndpoints(folder)
    return { key: readFileSync(operatorKey!, 'utf8'), cert: readFileSync(operatorCertificate!, 'utf8') }
  }
  const ask = async (shown: Shown, path = '/status', body?: object) => {
    const sent = body && {
      ...{ method: 'POST', body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } },
    }
    const answer = await fleet.ask(`${fleet.endpoints.admin}/v1${path}`, { ...shown, ...sent })
    const { code, certificate } = JSON.parse(answer.body)
    return { status: answer.status, code, certificate }
  }

  test('fleetgate operator renew puts another key and certificate into the folder, and those before end', async () => {
    const folder = await handedOver('ann', 'viewer')
    const former = shownIn(folder)
    for (const files of [
      ['operator-2.crt', 'operator-2.key'],
      ['operator.crt', 'operator.key'],
    ]) {
      const before = shownIn(folder)
      const { code, out, err } = await from(relative(process.cwd(), folder), 'operator', 'renew')
      assert.equal(code, 0, err)
      const now = shownIn(folder)
      assert.match(out, new RegExp(`^name +ann\\nrole +viewer[\\s\\S]*certificate +${factsOf(now.cert).serial}\\n`))
      assert.deepEqual(readdirSync(folder).toSorted(), ['endpoints.json', ...files, 'root.crt'])
      assert.notEqual(now.key, before.key)
      assert.deepEqual(
        [await ask(now), (await ask(before)).code],
        [{ ...(await ask(now)), status: 200 }, 'certificate_revoked'],
      )
    }
    assert.equal((await ask(former)).code, 'certificate_revoked')
    const { items } = (await fleet.admin('GET', '/audit?limit=1000')).body
    const renewed = items.filter(({ action }: { action: string }) => action === 'operator.renewed')
    assert.deepEqual(
      renewed.map(({ actor, details }: { actor: string; details: { superseded: string[] } }) => [
        actor,
        details.superseded.length,
      ]),
      Array(2).fill(['operator:ann', 1]),
    )
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

  test('somebody else is certified by an admin alone, under the same name', async () => {
    const { csr } = await request()
    const viewer = shownIn(await handedOver('cleo', 'viewer'))
    const refused = [
      await ask(viewer, '/operators/ann/renew', { csr }),
      await ask(viewer, '/operators/cleo/renew', { csr: 'x' }),
      (await fleet.admin('POST', '/operators/nobody/renew', { csr })).body,
    ]
    assert.deepEqual(
      refused.map(({ code }) => code),
      ['role_insufficient', 'csr_malformed', 'operator_unknown'],
    )
    const again = join(fleet.dataDir, 'cleo again')
    const { code, err } = await own('operator', 'renew', 'cleo', '--out', again)
    assert.equal(code, 0, err)
    assert.equal((await from(again, 'status')).code, 0)
    assert.equal((await ask(viewer)).code, 'certificate_revoked')
    assert.equal((await fleet.admin('DELETE', '/operators/cleo')).status, 200)
    assert.equal((await fleet.admin('POST', '/operators/cleo/renew', { csr })).body.code, 'operator_unknown')
    const token = join(fleet.dataDir, 'token')
    await own('api-token', 'create', '--name', 'ci', '--role', 'viewer', '--out', token)
    for (const [folder, sentence] of [
      [fleet.dataDir, /enroll renews the certificate in .* by itself \(conflict\); /],
      [token, /has an API token \(conflict\); make another/],
    ] as const) {
      const { code, err } = await from(folder, 'operator', 'renew')
      assert.deepEqual([code, sentence.test(err)], [1, true], err)
    }
    for (const words of [['cleo'], ['--out', 'x'], ['--csr', 'x']]) {
      assert.equal((await own('operator', 'renew', ...words)).code, 2)
    }
  })

  test('every command says on standard error that the certificate it shows has less than 30 days left, but for -o json', async () => {
    const folder = join(fleet.dataDir, 'old')
    mkdirSync(folder)
    const { key, pem, notAfter } = await (await TestPki.create()).device('x', {
      notBefore: new Date(Date.now() - 335 * day),
      notAfter: new Date(Date.now() + 29.5 * day),
    })
    writeFileSync(join(folder, 'operator.crt'), pem)
    writeFileSync(join(folder, 'operator.key'), key, { mode: 0o600 })
    const there = { ...readEndpoints(fleet.dataDir), admin: 'https://127.0.0.1:1' }
    writeEndpoints(folder, { ...there, operatorKey: 'operator.key', operatorCertificate: 'operator.crt' })
    const warning =
      /^warning: the certificate of this operator ends in 29 days; another one: npx fleetgate operator renew --data /
    assert.match((await from(folder, 'status')).err, warning)
    for (const words of [
      ['status', '-o', 'json'],
      ['operator', 'renew'],
    ]) {
      assert.doesNotMatch((await from(folder, ...words)).err, /warning/)
    }
    const at = (days: number) => expiryWarning(folder, new Date(notAfter.getTime() - days * day))
    assert.deepEqual([at(30), at(0), expiryWarning(join(folder, 'none'), new Date())], Array(3).fill(undefined))
    const seen = lookAtCertificates(folder, new Date()).find(({ state }) => state === 'warn')
    assert.match(seen?.fix ?? '', /^npx fleetgate operator renew --data /)
    mkdirSync(join(folder, 'enroll'))
    assert.match(at(29)!, /enroll ought to have renewed it: npx fleetgate doctor/)
  })
})
