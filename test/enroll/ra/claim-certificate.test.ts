import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, suite, test } from 'node:test'
import { createKeyAndCsr } from '../../../pki/x509.ts'
import { type TestCertificate, TestPki } from '../../harness/certificates.ts'
import { basic, certificateOf, codeOf, EnrollHarness, testConfiguration } from '../../harness/fleet.ts'

suite('claim certificates', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
  let maker: TestPki
  let pinned: TestCertificate
  let shared: TestCertificate
  let fleet: EnrollHarness
  before(async () => {
    maker = await TestPki.create('Maker')
    pinned = await TestPki.selfSigned('claim-2026')
    shared = await maker.factory([{ CN: ['claim'] }])
    writeFileSync(join(folder, 'maker.pem'), maker.issuing.pem)
    fleet = await EnrollHarness.start({
      config: testConfiguration({
        profiles: { meter: { evidence: ['claim'] }, valve: { evidence: ['claim', 'approval'] }, camera: {} },
        labels: {
          lot: {
            profile: 'meter',
            claim: { authorities: join(folder, 'maker.pem'), fingerprints: [pinned.fingerprint] },
          },
          valves: { profile: 'valve', claim: { fingerprints: [pinned.fingerprint] } },
          roof: { profile: 'camera', claim: { fingerprints: [pinned.fingerprint] } },
        },
        enroll: { attemptsPerMinute: 1000, renewalsPerHour: 2 },
      }),
    })
    const entries = Array.from({ length: 9 }, (_, n) => ({ serial: `S${n}`, deviceId: `meter-${n}` }))
    await fleet.admin('POST', '/devices/allow', { label: 'lot', entries })
  })
  after(async () => {
    await fleet[Symbol.asyncDispose]()
    rmSync(folder, { recursive: true })
  })

  const request = async (commonName: string) => (await createKeyAndCsr({ commonName })).csrDer
  const claim = (
    csrDer: Buffer,
    certificate: TestCertificate = shared,
    { label = 'lot', headers = {} }: { label?: string; headers?: Record<string, string> } = {},
  ) =>
    fleet.est('simpleenroll', {
      label,
      method: 'POST',
      headers: { 'Content-Type': 'application/pkcs10', ...headers },
      body: csrDer.toString('base64'),
      key: certificate.key,
      cert: certificate.pem,
    })
  const refusedAs = async (answer: ReturnType<typeof claim>) => {
    const { status, body } = await answer
    return [status, codeOf({ body })]
  }

  test('it enrolls registered devices, each once: by its CA or by its fingerprint, and the same key may ask again', async () => {
    for (const [id, certificate] of [
      ['meter-1', shared],
      ['meter-2', pinned],
      ['meter-3', shared],
    ] as const) {
      const csr = await request(id)
      const first = certificateOf(await claim(csr, certificate))
      assert.equal(certificateOf(await claim(csr, certificate)).serial, first.serial)
      assert.deepEqual(await refusedAs(claim(await request(id), certificate)), [403, 'claim_refused'])
    }
  })

  test('its holder hears one and the same for every name that it may not enroll; the audit log says why', async () => {
    await fleet.admin('POST', '/devices', { id: 'cam-1', profile: 'camera' })
    await fleet.admin('POST', '/devices/meter-7/revoke', { reason: 'keyCompromise' })
    await fleet.admin('POST', '/devices/meter-8/disable')
    const own = await request('meter-0')
    assert.equal((await claim(own)).status, 200)
    const wanted = {
      'ghost-1': 'device_unknown: there is no device ghost-1',
      'cam-1': 'label_mismatch: the device has the profile camera; the label lot is for meter',
      'meter-0': 'claim_spent: meter-0 was enrolled already; a claim certificate is good for one key of each device',
      'meter-7': /^device_revoked: meter-7 was revoked for keyCompromise at /,
      'meter-8': /^device_held: meter-8 is on hold since /,
    }
    const answers = new Set<string>()
    for (const [id, unsaid] of Object.entries(wanted)) {
      const { status, headers, body } = await claim(await request(id))
      const { date: _date, 'content-length': _length, ...rest } = headers
      const text = body.replaceAll(id, 'ID').replace(/request [0-9a-f]+/, 'request')
      answers.add(JSON.stringify([status, rest, text]))
      const { items } = (await fleet.admin('GET', '/audit?limit=1')).body
      const { actor, details } = items[0]
      assert.deepEqual([actor, details.claimed], ['unknown', `device:${id}`])
      if (typeof unsaid === 'string') assert.equal(details.unsaid, unsaid)
      else assert.match(details.unsaid, unsaid)
    }
    assert.equal(answers.size, 1, [...answers].join('\n'))
    assert.match([...answers][0]!, /^\[403,.*claim_refused: the claim certificate does not enroll ID for this key/)
    await fleet.admin('POST', '/devices/meter-0/revoke', { reason: 'superseded' })
    assert.deepEqual(
      await refusedAs(claim(own)),
      [403, 'device_revoked'],
      'the key that claimed it has shown whose it is',
    )
  })

  test('with an approval beside it every name waits, and one that it may not enroll is refused once it is approved', async () => {
    const approve = async (csrDer: Buffer) =>
      fleet.admin('POST', `/approvals/${createHash('sha256').update(csrDer).digest('hex')}/approve`)
    const valve = { label: 'valves' }
    await fleet.admin('POST', '/devices', { id: 'valve-1', profile: 'valve' })
    const [first, second] = [await request('valve-1'), await request('valve-1')]
    for (const csrDer of [first, second, await request('meter-4'), await request('ghost-2')]) {
      assert.equal((await claim(csrDer, pinned, valve)).status, 202)
      const { items } = (await fleet.admin('GET', '/audit?limit=1')).body
      assert.deepEqual([items[0].action, items[0].actor], ['approval.requested', 'unknown'])
    }
    await approve(second)
    assert.equal((await claim(second, pinned, valve)).status, 200)
    assert.equal((await claim(second, pinned, valve)).status, 200, 'the answer was lost')
    await approve(first)
    assert.deepEqual(await refusedAs(claim(first, pinned, valve)), [403, 'claim_refused'])
  })

  test('where the profile asks for something else it says so before it looks at the name', async () => {
    for (const id of ['meter-7', 'ghost-1']) {
      assert.deepEqual(await refusedAs(claim(await request(id), pinned, { label: 'roof' })), [401, 'unauthenticated'])
    }
  })

  test('another certificate, an expired one, and none are refused', async () => {
    const foreign = await TestPki.selfSigned('claim-2026')
    assert.deepEqual(await refusedAs(claim(await request('meter-4'), foreign)), [401, 'certificate_missing'])
    const old = await maker.factory([{ CN: ['claim'] }], { notAfter: new Date(Date.now() - 1000) })
    assert.deepEqual(await refusedAs(claim(await request('meter-4'), old)), [403, 'certificate_expired'])
    const bare = await fleet.est('simpleenroll', {
      label: 'lot',
      method: 'POST',
      headers: { 'Content-Type': 'application/pkcs10' },
      body: (await request('meter-4')).toString('base64'),
    })
    assert.deepEqual([bare.status, codeOf(bare)], [401, 'certificate_missing'])
    const token = await fleet.token('meter-4', { profile: 'meter' })
    const byToken = await fleet.enroll('meter-4', token, await request('meter-4'), { label: 'lot' })
    assert.deepEqual([byToken.status, codeOf(byToken)], [401, 'certificate_missing'])
    const beside = claim(await request('meter-4'), shared, {
      headers: { Authorization: basic('meter-5', token) },
    })
    assert.deepEqual(await refusedAs(beside), [401, 'token_invalid'])
  })

  test('of twelve keys and as many repetitions that race for one device, one key gets one certificate', async () => {
    const requests = await Promise.all(Array.from({ length: 12 }, () => request('meter-5')))
    const answers = await Promise.all(
      [...requests, ...requests].map(async (csr) => ({ key: csr.toString('hex'), ...(await claim(csr)) })),
    )
    const good = answers.filter(({ status }) => status === 200)
    assert.equal(new Set(good.map((answer) => certificateOf(answer).serial)).size, 1)
    assert.equal(new Set(good.map(({ key }) => key)).size, 1)
    for (const answer of answers) if (answer.status !== 200) assert.equal(codeOf(answer), 'claim_refused')
    const { body } = await fleet.admin('GET', '/certificates?deviceId=meter-5')
    assert.deepEqual(
      body.items.map((item: { status: string }) => item.status),
      ['issued'],
    )
  })

  test('a revoked device cannot be claimed again until it is readmitted, and then once', async () => {
    await claim(await request('meter-6'))
    await fleet.admin('POST', '/devices/meter-6/revoke', { reason: 'keyCompromise' })
    assert.deepEqual(await refusedAs(claim(await request('meter-6'))), [403, 'claim_refused'])
    await fleet.admin('POST', '/devices/meter-6/readmit')
    assert.equal((await claim(await request('meter-6'))).status, 200)
    assert.deepEqual(await refusedAs(claim(await request('meter-6'))), [403, 'claim_refused'])
    const stolen = await fleet.admin('POST', '/devices/meter-6/stolen')
    assert.match(stolen.body.claimCertificate, /^[0-9a-f]{64}$/, 'the thief has that one too')
    assert.deepEqual(await refusedAs(claim(await request('meter-6'))), [403, 'claim_refused'])
  })

  test('a CA that the file of the label holds from now on counts in the next handshake, and one that left it no more', async () => {
    const path = join(folder, 'maker.pem')
    writeFileSync(path, (await TestPki.create('Other Maker')).issuing.pem)
    await fleet.reconfigure(() => fleet.config)
    assert.deepEqual(await refusedAs(claim(await request('meter-4'))), [401, 'certificate_missing'])
    writeFileSync(path, maker.issuing.pem)
    await fleet.reconfigure(() => fleet.config)
    assert.equal((await claim(await request('meter-4'))).status, 200)
  })
})
