import assert from 'node:assert/strict'
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { after, before, suite, test } from 'node:test'
import { parse } from 'yaml'
import { lookAtCertificates } from '../../cli/doctor/machine.ts'
import { expiryWarning } from '../../cli/expiry.ts'
import { configuration } from '../../contract/configuration.ts'
import { parseCertificate, parsePem, toPem } from '../../pki/certificate.ts'
import { openKeyFile } from '../../pki/keystore.ts'
import { createKeyAndCsr } from '../../pki/x509.ts'
import { readEndpoints, writeEndpoints } from '../../runtime/endpoints.ts'
import { TestPki } from '../harness/certificates.ts'
import { EnrollHarness } from '../harness/fleet.ts'
import { fleetgate } from '../harness/stub-io.ts'

const day = 86_400_000
type Shown = { key: string; cert: string }

suite('brokers and operators, by the commands that make them', () => {
  let fleet: EnrollHarness
  before(async () => {
    fleet = await EnrollHarness.start()
    writeEndpoints(fleet.dataDir, { ...fleet.endpoints, mqtts: 'mqtts://localhost:1' })
  })
  after(() => fleet[Symbol.asyncDispose]())

  const request = async (): Promise<{ key: string; csr: string }> => {
    const { privateKeyPem, csrDer } = await createKeyAndCsr({ commonName: 'whatever' })
    return { key: privateKeyPem, csr: toPem(csrDer, 'CERTIFICATE REQUEST') }
  }
  const factsOf = (pem: string) => parseCertificate(parsePem(pem, 'CERTIFICATE')[0]!)

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
  const ask = (shown: Shown, path?: string, body?: object) => fleet.adminAs(shown, path, body)

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
