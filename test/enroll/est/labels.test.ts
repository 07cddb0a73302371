import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { Agent } from 'node:https'
import { join } from 'node:path'
import { after, before, suite, test } from 'node:test'
import { buildCsrAttributes } from '../../../pki/csr-attributes.ts'
import { buildName } from '../../../pki/names.ts'
import { createKeyAndCsr, createSelfSigned } from '../../../pki/x509.ts'
import { loadConfig } from '../../../runtime/config.ts'
import { cmcRequest } from '../../harness/cmc.ts'
import { basic, certificateOf, codeOf, EnrollHarness, testConfiguration } from '../../harness/fleet.ts'
import { RawEst } from '../../harness/raw-est.ts'

suite('labels and profiles (RFC 7030 3.2.2)', () => {
  let fleet: EnrollHarness
  before(async () => {
    fleet = await EnrollHarness.start({
      config: testConfiguration({
        profiles: {
          camera: { validityDays: 7, organization: 'Roof', serverKeygen: 'clear' },
          sensor: { keyTypes: ['Ed25519', 'P-256'] },
        },
        enroll: { attemptsPerMinute: 1000 },
        labels: { cameras: { profile: 'camera' }, plant: {} },
      }),
    })
  })
  after(() => fleet[Symbol.asyncDispose]())

  test('a label serves its devices beside the bare path, which is also the label default', async () => {
    for (const path of ['cacerts', 'cameras/cacerts', 'plant/cacerts', 'default/cacerts']) {
      assert.equal((await fleet.est(path)).status, 200, path)
    }
    for (const path of [
      'roof/cacerts',
      'cameras/',
      'cameras/nothing',
      'cameras/plant/cacerts',
      'constructor/cacerts',
    ]) {
      const answer = await fleet.est(path)
      assert.deepEqual([answer.status, codeOf(answer)], [404, 'not_found'], path)
    }
  })

  test('what is enrolled under a label has its profile, and the audit log says under which', async () => {
    const device = await fleet.enrolledDevice('cam-1', { label: 'cameras' })
    const renewed = certificateOf(await fleet.reenroll(device, await fleet.renewalCsr(device), { label: 'cameras' }))
    assert.deepEqual(
      renewed.subject.rdns.map(([attribute]) => attribute!.value),
      ['Roof', 'cam-1'],
    )
    const days = (renewed.notAfter.getTime() - renewed.notBefore.getTime()) / 86_400_000
    assert.ok(days >= 7 && days < 7.1, `${days} days`)
    const { body } = await fleet.admin('GET', '/audit?limit=1')
    assert.equal(body.items[0].details.label, 'cameras')
  })

  test('a label with a profile refuses a device of another one, and its token stays unspent', async () => {
    const token = await fleet.token('sensor-1', { profile: 'sensor' })
    const { csrDer } = await createKeyAndCsr({ commonName: 'sensor-1' })
    const refused = await fleet.enroll('sensor-1', token, csrDer, { label: 'cameras' })
    assert.deepEqual([refused.status, codeOf(refused)], [403, 'label_mismatch'])
    assert.equal((await fleet.enroll('sensor-1', token, csrDer, { label: 'plant' })).status, 200)
  })

  test('a certificate is renewed under the label it was enrolled under, and under no other', async () => {
    const device = await fleet.enrolledDevice('cam-2', { label: 'plant' })
    const csr = await fleet.renewalCsr(device)
    for (const label of [{}, { label: 'cameras' }, { label: 'default' }]) {
      const refused = await fleet.reenroll(device, csr, label)
      assert.deepEqual([refused.status, codeOf(refused)], [403, 'label_mismatch'])
    }
    assert.equal((await fleet.reenroll(device, csr, { label: 'plant' })).status, 200)
    const bare = await fleet.enrolledDevice('cam-3')
    assert.equal((await fleet.reenroll(bare, await fleet.renewalCsr(bare), { label: 'default' })).status, 200)
  })

  test('a device that is given another profile and other groups is certified by them when it renews, and can always renew', async () => {
    const device = await fleet.enrolledDevice('moved-1', { label: 'plant', groups: ['berlin'] })
    const changed = await fleet.admin('PATCH', '/devices/moved-1', { profile: 'sensor', groups: ['paris'] })
    assert.deepEqual([changed.status, changed.body.profile, changed.body.groups], [200, 'sensor', ['paris']])
    // RFC 7030 4.2.2: the request says what the certificate before says.
    const renewed = certificateOf(await fleet.reenroll(device, await fleet.renewalCsr(device), { label: 'plant' }))
    assert.deepEqual(
      renewed.subject.rdns.map(([attribute]) => attribute!.value),
      ['paris', 'moved-1'],
    )
    assert.ok(renewed.notAfter.getTime() - renewed.notBefore.getTime() > 8 * 86_400_000, 'not of the camera')

    await fleet.enrolledDevice('moved-2', { label: 'cameras' })
    const stuck = await fleet.admin('PATCH', '/devices/moved-2', { profile: 'sensor' })
    assert.deepEqual([stuck.status, stuck.body.code], [403, 'label_mismatch'])
    assert.match(stuck.body.detail, /under the label cameras, which is for camera; have moved-2 enroll anew/)
    const other = await fleet.admin('PATCH', '/devices/moved-2', { profile: 'camera', groups: ['paris'] })
    assert.equal(other.status, 200)

    const entries = [{ serial: 'SN-moved', deviceId: 'moved-3' }]
    await fleet.admin('POST', '/devices/allow', { label: 'cameras', entries })
    const listed = await fleet.admin('PATCH', '/devices/moved-3', { profile: 'sensor' })
    assert.deepEqual([listed.status, listed.body.code], [403, 'label_mismatch'])
    assert.match(listed.body.detail, /; take SN-moved off the allow-list of the label first$/)
    await fleet.admin('POST', '/devices/disallow', { label: 'cameras', serials: ['SN-moved'] })
    assert.equal((await fleet.admin('PATCH', '/devices/moved-3', { profile: 'sensor' })).status, 200)
  })

  test('with its certificate a device gets nothing under another label by any operation, however the path is written', async () => {
    const device = await fleet.enrolledDevice('cam-4', { label: 'plant' })
    const csrDer = await fleet.renewalCsr(device)
    const message = cmcRequest({ csrDer, key: device.key, certificate: device.certificate })
    const pkcs10: [string, Buffer] = ['application/pkcs10', csrDer]
    const operations: [string, [string, Buffer], number][] = [
      ['simplereenroll', pkcs10, 403],
      ['serverkeygen', pkcs10, 403],
      ['fullcmc', ['application/pkcs7-mime; smime-type=CMC-request', message], 403],
      ['simpleenroll', pkcs10, 401],
    ]
    const ask = async (path: string, [type, body]: [string, Buffer]): Promise<number> => {
      const base64 = body.toString('base64')
      const lines = [`POST ${path} HTTP/1.1`, 'Host: h', `Content-Type: ${type}`, `Content-Length: ${base64.length}`]
      await using connection = await RawEst.open(fleet, device)
      return Number.parseInt(
        await connection.exchange(Buffer.from(`${lines.join('\r\n')}\r\n\r\n${base64}`), 30_000),
        10,
      )
    }
    const before = (await fleet.admin('GET', '/certificates?deviceId=cam-4')).body.items.length
    for (const [operation, sent, status] of operations) {
      for (const label of ['cameras/', 'default/', '']) {
        assert.equal(await ask(`/.well-known/est/${label}${operation}`, sent), status, `${label}${operation}`)
      }
    }
    const reenroll = 'simplereenroll'
    for (const path of [
      `Plant/${reenroll}`,
      `plant%2f${reenroll}`,
      `plant%00/${reenroll}`,
      `%70lant/${reenroll}`,
      `plant/%73implereenroll`,
      `cameras/../plant/${reenroll}`,
      `./plant/${reenroll}`,
      `plant//${reenroll}`,
      `/plant/${reenroll}`,
      `plant/${reenroll}/`,
      `plant/${reenroll};x`,
      `plant/${reenroll}%20`,
      `plant\\${reenroll}`,
      `plant/${reenroll}#`,
    ]) {
      assert.equal(await ask(`/.well-known/est/${path}`, pkcs10), 404, path)
    }
    assert.equal(await ask(`/.well-known/EST/plant/${reenroll}`, pkcs10), 404)
    const { body } = await fleet.admin('GET', '/certificates?deviceId=cam-4')
    assert.equal(body.items.length, before, 'none was issued')
    assert.equal(await ask(`/.well-known/est/plant/${reenroll}?label=cameras`, pkcs10), 200)
  })

  test('a key of a type that the profile does not take is refused with the ones it takes', async () => {
    const token = await fleet.token('sensor-2', { profile: 'sensor' })
    const { csrDer } = await createKeyAndCsr({ commonName: 'sensor-2', keyType: 'P-384' })
    const refused = await fleet.enroll('sensor-2', token, csrDer)
    assert.deepEqual([refused.status, codeOf(refused)], [400, 'csr_key_unsupported'])
    assert.match(refused.body, /P-384; profile sensor wants Ed25519, P-256/)
  })
})

suite('profiles and labels that change while the service runs', () => {
  let fleet: EnrollHarness
  const settings = { profiles: { camera: {}, sensor: {} }, labels: { cameras: { profile: 'camera' } } }
  const configured = (change: object = {}) => testConfiguration({ ...settings, ...change })
  before(async () => {
    fleet = await EnrollHarness.start({ config: configured() })
  })
  after(() => fleet[Symbol.asyncDispose]())
  const status = async () => (await fleet.admin('GET', '/status')).body.configuration

  test('others are in force for the next request, on open connections too, and stand in the audit log', async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    const device = await fleet.enrolledDevice('cam-1', { label: 'cameras' })
    const renewal = await fleet.renewalCsr(device)
    const ask = { label: 'cameras', agent }
    assert.equal((await fleet.reenroll(device, renewal, ask)).status, 200)
    const socket = Object.values(agent.freeSockets)[0]?.[0]
    await fleet.reconfigure(() =>
      configured({
        profiles: { camera: { keyTypes: ['Ed25519'] }, sensor: {} },
        labels: { cameras: { profile: 'camera' }, roof: {} },
      }),
    )
    assert.equal(codeOf(await fleet.reenroll(device, renewal, ask)), 'csr_key_unsupported')
    assert.equal((await fleet.est('cacerts', { label: 'roof' })).status, 200)
    assert.equal(Object.values(agent.freeSockets)[0]?.[0], socket, 'the same connection')
    const { body } = await fleet.admin('GET', '/audit?limit=20')
    const entry = body.items.find(({ action }: { action: string }) => action === 'configuration.changed')
    assert.deepEqual(entry.details.changed, ['profile camera', 'label cameras', 'label roof'])

    await fleet.reconfigure(() => configured())
    assert.equal((await fleet.reenroll(device, renewal, ask)).status, 200)
    assert.equal((await fleet.est('cacerts', { label: 'roof' })).status, 404)
    agent.destroy()
  })

  test('what cannot be used leaves those in force that are, and the status says what is wrong until it is mended', async () => {
    const path = join(fleet.dataDir, 'fleetgate.yaml')
    writeFileSync(path, 'profiles:\n  camera: { validityDays: 0 }\n')
    await fleet.reconfigure(() => loadConfig({ file: path, env: {} }))
    assert.match((await status()).refused, /fleetgate\.yaml:2:13: profiles\.camera\.validityDays: /)
    const factory = { authorities: join(fleet.dataDir, 'nothing.pem') }
    await fleet.reconfigure(() => configured({ labels: { cameras: { profile: 'camera', factory } } }))
    assert.match((await status()).refused, /^labels\.cameras\.factory: .*nothing\.pem cannot be read/)
    assert.equal((await fleet.est('cacerts', { label: 'cameras' })).status, 200)
    await fleet.reconfigure(() => configured())
    assert.deepEqual(await status(), { waitsForRestart: [] })
  })

  test('settings that take a restart are named, and change nothing', async () => {
    await fleet.reconfigure(() => configured({ names: ['gateway.example'], broker: { id: 'broker-9' } }))
    assert.deepEqual((await status()).waitsForRestart, ['names', 'broker.id'])
  })
})

suite('csrattrs (RFC 7030 4.5, RFC 9908)', () => {
  let fleet: EnrollHarness
  before(async () => {
    fleet = await EnrollHarness.start({
      config: testConfiguration({
        profiles: { camera: {}, sensor: { keyTypes: ['Ed25519'] } },
        labels: { sensors: { profile: 'sensor' }, plant: {} },
      }),
    })
  })
  after(() => fleet[Symbol.asyncDispose]())

  const wanted = (keyType: 'P-256' | 'Ed25519', subject?: Buffer): string =>
    buildCsrAttributes({
      template: { keyType, extendedKeyUsage: ['clientAuth'], subject },
      channelBinding: false,
    }).toString('base64')

  test('a stranger is told what the label is for, and nothing where each device has its own profile', async () => {
    const told = await fleet.est('csrattrs', { label: 'sensors' })
    assert.deepEqual([told.status, told.headers['content-type']], [200, 'application/csrattrs'])
    assert.equal(told.body, `${wanted('Ed25519')}\n`)
    const silent = await fleet.est('csrattrs')
    assert.deepEqual([silent.status, silent.body, silent.headers['content-length']], [204, '', undefined])
  })

  test('the holder of a token is told its CN, and a device its current subject', async () => {
    const token = await fleet.token('cam-1', { groups: ['roof'] })
    const first = await fleet.est('csrattrs', { headers: { Authorization: basic('cam-1', token) } })
    assert.equal(first.body.trim(), wanted('P-256', buildName({ commonName: 'cam-1' })))
    const { key, certificate } = await fleet.enrolledDevice('cam-2', { groups: ['roof'] })
    const again = await fleet.est('csrattrs', { key, cert: certificate })
    const subject = buildName({ commonName: 'cam-2', organizationalUnits: ['roof'] })
    assert.equal(again.body.trim(), wanted('P-256', subject))
  })

  test('a wrong token is refused; a certificate that does not count is as good as none', async () => {
    const wrong = await fleet.est('csrattrs', { headers: { Authorization: basic('cam-1', 'x') } })
    assert.deepEqual([wrong.status, codeOf(wrong)], [401, 'token_invalid'])
    const token = await fleet.token('cam-3')
    const headers = { Authorization: basic('cam-3', token) }
    const elsewhere = await fleet.est('csrattrs', { label: 'sensors', headers })
    assert.deepEqual([elsewhere.status, codeOf(elsewhere)], [403, 'label_mismatch'])
    for (const { key, cert } of [fleet.operator, await strangerCredential()]) {
      assert.equal((await fleet.est('csrattrs', { key, cert })).status, 204)
    }
    const { key, certificate: cert } = await fleet.enrolledDevice('sensor-1', { profile: 'sensor', keyType: 'Ed25519' })
    assert.equal((await fleet.est('csrattrs', { key, cert, label: 'plant' })).status, 204, 'of another label')
    const plain = await fleet.est('csrattrs', { key, cert, label: 'sensors' })
    assert.equal(plain.body, `${wanted('Ed25519')}\n`)
  })
})

async function strangerCredential(): Promise<{ key: string; cert: string }> {
  const dates = { notBefore: new Date(Date.now() - 1000), notAfter: new Date(Date.now() + 60_000) }
  const { privateKeyPem, certificatePem } = await createSelfSigned({ commonName: 'cam-1', ...dates })
  return { key: privateKeyPem, cert: certificatePem }
}
