import assert from 'node:assert/strict'
import { after, before, suite, test } from 'node:test'
import { createKeyAndCsr } from '../../../pki/x509.ts'
import { certificateOf, codeOf, EnrollHarness, testConfiguration } from '../../harness/fleet.ts'

suite('labels and profiles (RFC 7030 3.2.2)', () => {
  let fleet: EnrollHarness
  before(async () => {
    fleet = await EnrollHarness.start({
      config: testConfiguration({
        profiles: { camera: { validityDays: 7, organization: 'Roof' }, sensor: { keyTypes: ['Ed25519', 'P-256'] } },
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
    assert.ok(days > 7 && days < 7.1, `${days} days`)
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

  test('a key of a type that the profile does not take is refused with the ones it takes', async () => {
    const token = await fleet.token('sensor-2', { profile: 'sensor' })
    const { csrDer } = await createKeyAndCsr({ commonName: 'sensor-2', keyType: 'P-384' })
    const refused = await fleet.enroll('sensor-2', token, csrDer)
    assert.deepEqual([refused.status, codeOf(refused)], [400, 'csr_key_unsupported'])
    assert.match(refused.body, /P-384; profile sensor wants Ed25519, P-256/)
  })
})
