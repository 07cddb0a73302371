import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { after, before, suite, test } from 'node:test'
import { createKeyAndCsr } from '../../../pki/x509.ts'
import { certificateOf, codeOf, EnrollHarness, movableClock, testConfiguration } from '../../harness/fleet.ts'

const approvals = {
  maxPending: 4,
  maxPendingPerAddress: 3,
  maxPendingPerDevice: 2,
  retryAfterMs: 30_000,
  expireMs: 3_600_000,
}

suite('the approval queue', () => {
  const clock = movableClock()
  let fleet: EnrollHarness
  before(async () => {
    fleet = await EnrollHarness.start({
      clock: clock.now,
      config: testConfiguration({
        profiles: {
          kiosk: { evidence: ['approval'], serverKeygen: 'clear' },
          camera: {},
          vault: { evidence: ['token', 'approval'] },
        },
        labels: { lobby: { profile: 'kiosk' }, other: { profile: 'kiosk' } },
        enroll: { attemptsPerMinute: 1000, approvals },
      }),
    })
  })
  after(() => fleet[Symbol.asyncDispose]())

  const idOf = (csrDer: Buffer): string => createHash('sha256').update(csrDer).digest('hex')
  const request = async (commonName: string) => (await createKeyAndCsr({ commonName })).csrDer
  const ask = (csrDer: Buffer, label = 'lobby', operation = 'simpleenroll') =>
    fleet.est(operation, {
      label,
      method: 'POST',
      headers: { 'Content-Type': 'application/pkcs10' },
      body: csrDer.toString('base64'),
    })
  const approve = (csrDer: Buffer, body: object = {}) => fleet.admin('POST', `/approvals/${idOf(csrDer)}/approve`, body)
  const pending = async (): Promise<string[]> =>
    (await fleet.admin('GET', '/approvals?decision=pending')).body.items.map((item: { id: string }) => item.id)
  const clear = () => clock.advance(approvals.expireMs + 1)

  test('a request waits with 202 and Retry-After in seconds; once approved the same one has its certificate, as often as it asks', async () => {
    const csr = await request('kiosk-1')
    for (let round = 0; round < 2; round++) {
      const waits = await ask(csr)
      assert.deepEqual([waits.status, waits.headers['retry-after']], [202, '30'])
    }
    assert.deepEqual(await pending(), [idOf(csr)])
    const { status, body } = await approve(csr, { groups: ['lobby'] })
    assert.deepEqual(
      [status, body.decision, body.deviceId, body.decidedBy],
      [200, 'approved', 'kiosk-1', 'operator:operator'],
    )
    const first = certificateOf(await ask(csr))
    assert.equal(certificateOf(await ask(csr)).fingerprint, first.fingerprint)
    const device = await fleet.admin('GET', '/devices/kiosk-1')
    assert.deepEqual(
      [device.body.profile, device.body.groups, device.body.currentSerial],
      ['kiosk', ['lobby'], first.serial],
    )
    const shown = await fleet.admin('GET', `/approvals/${idOf(csr)}`)
    assert.deepEqual([shown.body.decision, shown.body.serial], ['issued', first.serial])
    const another = await request('kiosk-1')
    await ask(another)
    const warned = await fleet.admin('GET', `/approvals/${idOf(another)}`)
    assert.equal(warned.body.currentSerial, first.serial, 'the operator sees that the name is in use')
    clear()
  })

  test('approving one key does not approve another of the same name, nor the same request under another label', async () => {
    const [mine, theirs] = [await request('kiosk-2'), await request('kiosk-2')]
    assert.deepEqual([(await ask(mine)).status, (await ask(theirs)).status], [202, 202])
    assert.equal((await approve(mine)).status, 200)
    assert.equal((await ask(theirs)).status, 202)
    const elsewhere = await ask(mine, 'other')
    assert.deepEqual([elsewhere.status, codeOf(elsewhere)], [403, 'label_mismatch'])
    assert.equal((await ask(mine)).status, 200)
    clear()
  })

  test('a denial answers 403 with its code and reason, and stays; what was decided is not decided otherwise', async () => {
    const csr = await request('kiosk-3')
    await ask(csr)
    const deny = (reason: string) => fleet.admin('POST', `/approvals/${idOf(csr)}/deny`, { reason })
    assert.equal((await deny('not ours')).status, 200)
    const refused = await ask(csr)
    assert.deepEqual([refused.status, codeOf(refused)], [403, 'approval_denied'])
    assert.match(refused.body, /not ours/)
    assert.equal((await deny('again')).body.reason, 'not ours')
    const turned = await approve(csr)
    assert.deepEqual([turned.status, turned.body.code], [409, 'conflict'])
    assert.equal((await fleet.admin('GET', '/devices/kiosk-3')).status, 404)
    const unknown = await fleet.admin('POST', `/approvals/${'0'.repeat(64)}/approve`, {})
    assert.deepEqual([unknown.status, unknown.body.code], [404, 'approval_unknown'])
  })

  test('a restart keeps what waits and what was decided', async () => {
    const [waits, approved] = [await request('kiosk-4'), await request('kiosk-5')]
    await Promise.all([ask(waits), ask(approved)])
    await approve(approved)
    await fleet.close()
    await fleet.open()
    assert.deepEqual([(await ask(waits)).status, (await ask(approved)).status], [202, 200])
    clear()
  })

  test('what waits is bounded for a device, for an address and in all, also when all come at once, and expires', async () => {
    const twice = await Promise.all(Array.from({ length: 6 }, () => request('kiosk-6')))
    const answers = await Promise.all(twice.map((csr) => ask(csr)))
    assert.equal(answers.filter(({ status }) => status === 202).length, approvals.maxPendingPerDevice)
    const full = answers.find(({ status }) => status !== 202)!
    assert.deepEqual([full.status, codeOf(full), full.headers['retry-after']], [429, 'approval_queue_full', '30'])
    assert.doesNotMatch(full.body, /kiosk-6/)
    const { body: audit } = await fleet.admin('GET', '/audit?limit=1')
    const { actor, details } = audit.items[0]
    assert.deepEqual([actor, details.unsaid], ['unknown', '2 of kiosk-6 wait'])
    assert.equal((await ask(await request('kiosk-7'))).status, 202)
    assert.equal((await ask(await request('kiosk-8'))).body.replace(/\(.*/, ''), full.body.replace(/\(.*/, ''))
    assert.equal((await pending()).length, approvals.maxPendingPerAddress)
    clear()
    const late = await approve(twice[answers.findIndex(({ status }) => status === 202)]!)
    assert.deepEqual([late.status, late.body.code], [404, 'approval_unknown'])
    assert.equal((await ask(await request('kiosk-8'))).status, 202)
    assert.equal((await pending()).length, 1)
    clear()
  })

  test('two at once: the token is judged first and spent together with the approval', async () => {
    const token = await fleet.token('vault-1', { profile: 'vault' })
    const csr = await request('vault-1')
    const wrong = await fleet.enroll('vault-1', 'A'.repeat(43), csr)
    assert.deepEqual([wrong.status, codeOf(wrong)], [401, 'token_invalid'])
    assert.equal((await fleet.enroll('vault-1', token, csr)).status, 202)
    const { body } = await fleet.admin('GET', `/approvals/${idOf(csr)}`)
    assert.deepEqual(body.proved, ['token'])
    await approve(csr)
    const first = certificateOf(await fleet.enroll('vault-1', token, csr))
    assert.equal(certificateOf(await fleet.enroll('vault-1', token, csr)).serial, first.serial)
    const other = await fleet.enroll('vault-1', token, await request('vault-1'))
    assert.deepEqual([other.status, codeOf(other)], [403, 'token_spent'])
    const without = await ask(csr, 'lobby')
    assert.deepEqual([without.status, codeOf(without)], [403, 'label_mismatch'])
  })

  test('without a profile of its own a label asks strangers for a token, and only a name that can be one is queued', async () => {
    const bare = await fleet.est('simpleenroll', {
      method: 'POST',
      headers: { 'Content-Type': 'application/pkcs10' },
      body: (await request('kiosk-1')).toString('base64'),
    })
    assert.deepEqual([bare.status, codeOf(bare)], [401, 'unauthenticated'])
    const strange = await ask(await request('kiosk 9'))
    assert.deepEqual([strange.status, codeOf(strange)], [403, 'csr_subject_mismatch'])
  })

  test('a key that is made here cannot wait for approval', async () => {
    const answer = await ask(await request('kiosk-10'), 'lobby', 'serverkeygen')
    assert.deepEqual([answer.status, codeOf(answer)], [403, 'keygen_disabled'])
  })

  test('a revocation ends what waits and what was approved, and nobody can approve the device afterwards', async () => {
    const [approved, waits] = [await request('kiosk-11'), await request('kiosk-11')]
    await Promise.all([ask(approved), ask(waits)])
    await approve(approved)
    await fleet.admin('POST', '/devices/kiosk-11/revoke', { reason: 'keyCompromise' })
    assert.deepEqual(await pending(), [])
    assert.equal((await approve(approved)).body.code, 'approval_unknown')
    for (const csr of [approved, waits]) assert.equal((await ask(csr)).status, 202)
    const refused = await approve(approved)
    assert.deepEqual([refused.status, refused.body.code], [403, 'device_revoked'])
    clear()
  })

  test('a stranger gets one and the same answer for every name, whatever has become of the device; the operator is told', async () => {
    await fleet.admin('POST', '/devices', { id: 'kiosk-20', profile: 'kiosk' })
    await fleet.admin('POST', '/devices', { id: 'kiosk-21', profile: 'kiosk' })
    await fleet.admin('POST', '/devices/kiosk-21/revoke', { reason: 'keyCompromise' })
    await fleet.admin('POST', '/devices', { id: 'kiosk-22', profile: 'kiosk' })
    await fleet.admin('POST', '/devices/kiosk-22/disable')
    await fleet.admin('POST', '/devices', { id: 'cam-23', profile: 'camera' })
    const wanted: [string, string | undefined, number, string | undefined][] = [
      ['kiosk-19', undefined, 200, undefined],
      ['kiosk-20', 'active', 200, undefined],
      ['kiosk-21', 'revoked', 403, 'device_revoked'],
      ['kiosk-22', 'held', 403, 'device_held'],
      ['cam-23', 'active', 409, 'conflict'],
    ]
    for (const [id, deviceStatus, status, code] of wanted) {
      const csr = await request(id)
      const answer = await ask(csr)
      const { date: _date, ...headers } = answer.headers
      const told = [answer.status, headers, answer.body.replace(/\(request .*\n/, '')]
      const unknown = 'the request waits for approval; send the same one again '
      assert.deepEqual(told, [202, { ...headers, 'retry-after': '30' }, unknown], id)
      const { body: audit } = await fleet.admin('GET', '/audit?limit=1')
      assert.deepEqual([audit.items[0].actor, audit.items[0].details.device], ['unknown', id])
      assert.equal(audit.items[0].details.deviceStatus, deviceStatus ?? 'unknown')
      assert.equal((await fleet.admin('GET', `/approvals/${idOf(csr)}`)).body.deviceStatus, deviceStatus)
      const decided = await approve(csr)
      assert.deepEqual([decided.status, decided.body.code], [status, code], id)
      clear()
    }
  })

  test('an approval is no way past what happened to the device after it', async () => {
    const csr = await request('kiosk-24')
    await ask(csr)
    await approve(csr)
    await fleet.admin('POST', '/devices/kiosk-24/disable')
    const held = await ask(csr)
    assert.deepEqual([held.status, codeOf(held)], [403, 'device_held'])
    await fleet.admin('POST', '/devices/kiosk-24/enable')
    assert.equal((await ask(csr)).status, 200)
    await fleet.admin('POST', '/devices/kiosk-24/revoke', { reason: 'superseded' })
    const revoked = await ask(csr)
    assert.deepEqual([revoked.status, codeOf(revoked)], [403, 'device_revoked'])
    clear()
  })

  test('of many who come at once with one approved request, all have the one certificate', async () => {
    const csr = await request('kiosk-25')
    await ask(csr)
    await approve(csr)
    const answers = await Promise.all(Array.from({ length: 12 }, () => ask(csr)))
    assert.deepEqual(new Set(answers.map(({ status }) => status)), new Set([200]))
    assert.equal(new Set(answers.map((answer) => certificateOf(answer).serial)).size, 1)
    const { body } = await fleet.admin('GET', '/certificates?deviceId=kiosk-25')
    assert.equal(body.items.length, 1)
    clear()
  })

  test('a hold keeps what waits and lets nobody approve it; afterwards it goes on', async () => {
    const [approved, waits] = [await request('kiosk-13'), await request('kiosk-13')]
    await Promise.all([ask(approved), ask(waits)])
    await approve(approved)
    await fleet.admin('POST', '/devices/kiosk-13/disable')
    const answer = await ask(approved)
    assert.deepEqual([answer.status, codeOf(answer)], [403, 'device_held'])
    assert.equal((await ask(waits)).status, 202)
    const refused = await approve(waits)
    assert.deepEqual([refused.status, refused.body.code], [403, 'device_held'])
    await fleet.admin('POST', '/devices/kiosk-13/enable')
    assert.equal((await ask(approved)).status, 200)
    assert.equal((await approve(waits)).status, 200)
  })

  test('of two operators at once one decides', async () => {
    const csr = await request('kiosk-12')
    await ask(csr)
    const answers = await Promise.all([approve(csr), fleet.admin('POST', `/approvals/${idOf(csr)}/deny`, {})])
    assert.deepEqual(answers.map(({ status }) => status).sort(), [200, 409])
  })
})
