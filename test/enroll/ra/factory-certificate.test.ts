import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { Agent } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, suite, test } from 'node:test'
import { readAuthorities } from '../../../enroll/ra/factory-certificate.ts'
import { createKeyAndCsr } from '../../../pki/x509.ts'
import { isFleetError } from '../../../runtime/errors.ts'
import { type TestCertificate, TestPki } from '../../harness/certificates.ts'
import { basic, certificateOf, codeOf, EnrollHarness, testConfiguration } from '../../harness/fleet.ts'

const serialNumber = '2.5.4.5'
const named = (serial: string) => [{ O: ['Maker'] }, { [serialNumber]: [serial] }]

suite('factory certificates', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
  let maker: TestPki
  let rival: TestPki
  let fleet: EnrollHarness
  before(async () => {
    maker = await TestPki.create('Maker')
    rival = await TestPki.create('Rival')
    const trust = (pki: TestPki, name: string) => {
      writeFileSync(join(folder, name), pki.issuing.pem)
      return { authorities: join(folder, name) }
    }
    fleet = await EnrollHarness.start({
      config: testConfiguration({
        profiles: { gauge: { evidence: ['factory'] }, vault: { evidence: ['token', 'factory'] }, camera: {} },
        labels: {
          line: { profile: 'gauge', factory: trust(maker, 'maker.pem') },
          rivals: { profile: 'gauge', factory: { ...trust(rival, 'rival.pem'), serialFrom: 'CN' } },
          safe: { profile: 'vault', factory: trust(maker, 'maker.pem') },
        },
        enroll: { attemptsPerMinute: 1000 },
      }),
    })
    const entries = [
      { serial: 'PID:G1 SN:0001', deviceId: 'gauge-1' },
      { serial: 'PID:G1 SN:0002', deviceId: 'gauge-2' },
    ]
    const allowed = await fleet.admin('POST', '/devices/allow', { label: 'line', groups: ['hall'], entries })
    assert.deepEqual([allowed.status, allowed.body], [200, { added: 2 }])
  })
  after(async () => {
    await fleet[Symbol.asyncDispose]()
    rmSync(folder, { recursive: true })
  })

  type Options = { label?: string; token?: string; agent?: Agent; operation?: string }
  const enroll = async (id: string, factory: TestCertificate | undefined, options: Options = {}) => {
    const { label = 'line', token, agent, operation = 'simpleenroll' } = options
    return fleet.est(operation, {
      label,
      method: 'POST',
      headers: {
        'Content-Type': 'application/pkcs10',
        ...(token === undefined ? {} : { Authorization: basic(id, token) }),
      },
      body: (await createKeyAndCsr({ commonName: id })).csrDer.toString('base64'),
      ...(factory === undefined ? {} : { key: factory.key, cert: factory.pem }),
      ...(agent === undefined ? {} : { agent, minVersion: 'TLSv1.3' }),
    })
  }
  const refusedAs = async (answer: ReturnType<typeof enroll>) => {
    const { status, body } = await answer
    return [status, codeOf({ body })]
  }

  test('a serial number on the allow-list is the device that stands beside it, with its groups, as often as it comes', async () => {
    const idevid = await maker.factory(named('PID:G1 SN:0001'), { notAfter: new Date('9999-12-31T23:59:59Z') })
    const first = certificateOf(await enroll('gauge-1', idevid))
    assert.deepEqual(
      first.subject.rdns.map(([attribute]) => attribute!.value),
      ['hall', 'gauge-1'],
    )
    assert.notEqual(certificateOf(await enroll('gauge-1', idevid)).serial, first.serial)
    const { body } = await fleet.admin('GET', '/audit?limit=1')
    assert.deepEqual([body.items[0].action, body.items[0].details.via], ['certificate.issued', 'factory'])
  })

  test('it enrolls nobody else, and a serial number that nobody allowed enrolls nothing', async () => {
    const idevid = await maker.factory(named('PID:G1 SN:0002'))
    assert.deepEqual(await refusedAs(enroll('gauge-1', idevid)), [403, 'csr_subject_mismatch'])
    const unknown = await maker.factory(named('PID:G1 SN:0003'))
    assert.deepEqual(await refusedAs(enroll('gauge-3', unknown)), [403, 'device_not_allowed'])
  })

  test('a device registered under its serial number needs no list, unless a list names it for other hardware', async () => {
    await fleet.admin('POST', '/devices', { id: 'SN77', profile: 'gauge' })
    assert.equal((await enroll('SN77', await maker.factory(named('SN77')))).status, 200)
    await fleet.admin('POST', '/devices/allow', { label: 'line', entries: [{ serial: 'SN78', deviceId: 'SN78' }] })
    const twin = await rival.factory([{ CN: ['SN78'] }])
    assert.deepEqual(await refusedAs(enroll('SN78', twin, { label: 'rivals' })), [403, 'device_not_allowed'])
  })

  test('a device whose profile asks for a token is not enrolled by its factory certificate', async () => {
    await fleet.admin('POST', '/devices', { id: 'SN79', profile: 'camera' })
    const idevid = await maker.factory(named('SN79'))
    assert.deepEqual(await refusedAs(enroll('SN79', idevid)), [403, 'label_mismatch'])
  })

  test('an authority is trusted under its label alone, and for first certificates alone', async () => {
    const foreign = await rival.factory(named('PID:G1 SN:0001'))
    assert.deepEqual(await refusedAs(enroll('gauge-1', foreign)), [401, 'certificate_missing'])
    const idevid = await maker.factory(named('PID:G1 SN:0001'))
    assert.deepEqual(await refusedAs(enroll('gauge-1', idevid, { label: 'rivals' })), [401, 'certificate_missing'])
    const renewal = enroll('gauge-1', idevid, { operation: 'simplereenroll' })
    assert.deepEqual(await refusedAs(renewal), [401, 'certificate_untrusted'])
    const operator = await maker.factory([{ CN: ['operator'] }])
    const admin = await fleet.ask(`${fleet.endpoints.admin}/v1/devices`, { key: operator.key, cert: operator.pem })
    assert.deepEqual([admin.status, JSON.parse(admin.body).code], [401, 'certificate_untrusted'])
  })

  test('the serial number is the one attribute of its kind, wherever in the name it stands', async () => {
    const many = await maker.factory([{ CN: ['x'], [serialNumber]: ['PID:G1 SN:0001'] }])
    assert.equal((await enroll('gauge-1', many)).status, 200)
    const two = await maker.factory([...named('PID:G1 SN:0001'), { [serialNumber]: ['PID:G1 SN:0002'] }])
    assert.deepEqual(await refusedAs(enroll('gauge-1', two)), [403, 'device_not_allowed'])
    const none = await maker.factory([{ CN: ['PID:G1 SN:0001'] }])
    assert.deepEqual(await refusedAs(enroll('gauge-1', none)), [403, 'device_not_allowed'])
  })

  test('one that is expired, not valid yet, of a server or of an authority is refused by name', async () => {
    const day = 86_400_000
    const name = named('PID:G1 SN:0001')
    const cases: [Parameters<TestPki['factory']>[1], string][] = [
      [{ notAfter: new Date(Date.now() - 1000) }, 'certificate_expired'],
      [{ notBefore: new Date(Date.now() + day) }, 'certificate_not_yet_valid'],
      [{ usage: ['1.3.6.1.5.5.7.3.1'] }, 'certificate_wrong_usage'],
      [{ ca: { pathLength: 0 } }, 'certificate_wrong_usage'],
    ]
    for (const [more, code] of cases) {
      assert.deepEqual(await refusedAs(enroll('gauge-1', await maker.factory(name, more))), [403, code])
    }
    // RFC 5280 4.2.1.3: no use at all is not any use, as without the extension.
    const useless = await maker.factory(name, { keyUsage: 0 })
    assert.deepEqual(await refusedAs(enroll('gauge-1', useless)), [400, 'request_malformed'])
  })

  test('a revoked device stays out with its factory certificate until it is readmitted, on a resumed session too', async () => {
    await fleet.admin('POST', '/devices/allow', { label: 'line', entries: [{ serial: 'SN80', deviceId: 'gauge-80' }] })
    const idevid = await maker.factory(named('SN80'))
    const agent = new Agent({ keepAlive: true, maxSockets: 1, maxCachedSessions: 10 })
    assert.equal((await enroll('gauge-80', idevid, { agent })).status, 200)
    agent.destroy()
    assert.equal((await enroll('gauge-80', idevid, { agent })).status, 200)
    await fleet.admin('POST', '/devices/gauge-80/revoke', { reason: 'keyCompromise' })
    assert.deepEqual(await refusedAs(enroll('gauge-80', idevid, { agent })), [403, 'device_revoked'])
    agent.destroy()
    const again = await fleet.admin('POST', '/devices/allow', {
      label: 'line',
      entries: [{ serial: 'SN80', deviceId: 'gauge-80' }],
    })
    assert.deepEqual([again.status, again.body.code], [403, 'device_revoked'])
    assert.deepEqual((await fleet.admin('POST', '/devices/gauge-80/readmit')).body.status, 'active')
    assert.equal((await enroll('gauge-80', idevid)).status, 200)
  })

  test('a device on hold is not let in by its factory certificate, nor allowed under another serial number', async () => {
    const entries = [{ serial: 'SN81', deviceId: 'gauge-81' }]
    await fleet.admin('POST', '/devices/allow', { label: 'line', entries })
    await fleet.admin('POST', '/devices/gauge-81/disable')
    assert.deepEqual(await refusedAs(enroll('gauge-81', await maker.factory(named('SN81')))), [403, 'device_held'])
    const more = [{ serial: 'SN82', deviceId: 'gauge-81' }]
    const refused = await fleet.admin('POST', '/devices/allow', { label: 'line', entries: more })
    assert.deepEqual([refused.status, refused.body.code], [403, 'device_held'])
  })

  test('the hardware of a stolen device is not let in under another name either', async () => {
    const list = (verb: string, body: object) => fleet.admin('POST', `/devices/${verb}`, { label: 'line', ...body })
    await list('allow', { entries: [{ serial: 'SN83', deviceId: 'gauge-83' }] })
    const idevid = await maker.factory(named('SN83'))
    assert.equal((await enroll('gauge-83', idevid)).status, 200)
    await fleet.admin('POST', '/devices/gauge-83/stolen')
    assert.deepEqual(await refusedAs(enroll('gauge-83', idevid)), [403, 'device_revoked'])
    await list('disallow', { serials: ['SN83'] })
    for (const label of ['line', 'rivals']) {
      const renamed = await list('allow', { label, entries: [{ serial: 'SN83', deviceId: 'gauge-84' }] })
      assert.deepEqual([renamed.status, renamed.body.code], [403, 'hardware_stolen'])
      assert.match(renamed.body.detail, /"SN83" is that of gauge-83, which was stolen at 20/)
    }
    // One that came in by its serial number alone.
    await fleet.admin('POST', '/devices', { id: 'SN85', profile: 'gauge' })
    await fleet.admin('POST', '/devices/SN85/stolen')
    const listed = await list('allow', { entries: [{ serial: 'SN85', deviceId: 'gauge-85' }] })
    assert.deepEqual([listed.status, listed.body.code], [403, 'hardware_stolen'])
  })

  test('what was allowed under another label before the theft is refused too, by its serial number or its key, and raises an alert', async () => {
    const list = async (label: string, serial: string, deviceId: string, more = {}) =>
      (await fleet.admin('POST', '/devices/allow', { label, entries: [{ serial, deviceId }], ...more })).body
    for (const [label, serial, id] of [
      ['line', 'SN60', 'gauge-60'],
      ['rivals', 'SN60', 'gauge-61'],
      ['rivals', 'R62', 'gauge-62'],
    ] as const)
      assert.deepEqual(await list(label, serial, id), { added: 1 })
    const idevid = await maker.factory(named('SN60'))
    const twin = await rival.factory([{ CN: ['SN60'] }])
    const sameKey = await rival.factory([{ CN: ['R62'] }], { key: idevid.key })
    const rivals = { label: 'rivals' }
    assert.equal((await enroll('gauge-60', idevid)).status, 200)
    assert.equal((await enroll('gauge-61', twin, rivals)).status, 200)
    const { incident, ...theft } = (await fleet.admin('POST', '/devices/gauge-60/stolen')).body
    assert.deepEqual([theft.sameSerialNumber, theft.sameHardware], [['gauge-61'], undefined])
    assert.deepEqual(await refusedAs(enroll('gauge-61', twin, rivals)), [403, 'hardware_stolen'])
    // The refusal does not wait until it is noted.
    const evidenceOf = async () => (await fleet.admin('GET', `/incidents/${incident}`)).body.evidence
    let evidence = await evidenceOf()
    while (evidence.length < 2) evidence = await evidenceOf()
    assert.partialDeepStrictEqual(evidence.at(-1).details, { where: 'handshake' })
    // Another factory's equal number: an operator says so, and it counts for the theft that they knew of.
    assert.equal((await list('rivals', 'SN60', 'gauge-61')).code, 'hardware_stolen')
    assert.deepEqual(await list('rivals', 'SN60', 'gauge-61', { otherHardware: true }), { added: 0 })
    assert.deepEqual(await list('rivals', 'SN60', 'gauge-61'), { added: 0 })
    assert.equal((await enroll('gauge-61', twin, rivals)).status, 200)
    const { items } = (await fleet.admin('GET', '/audit?limit=1000&action=device.allowed')).body
    assert.deepEqual(items.at(-1).details, { added: 0, devices: ['gauge-61'], otherThan: ['gauge-60'] })
    // Of a key nobody can say that.
    await list('rivals', 'R62', 'gauge-62', { otherHardware: true })
    assert.deepEqual(await refusedAs(enroll('gauge-62', sameKey, rivals)), [403, 'hardware_stolen'])
    await fleet.admin('POST', '/devices/gauge-60/readmit', { stolenRecovered: true })
    for (const [id, shown, label] of [
      ['gauge-60', idevid, 'line'],
      ['gauge-62', sameKey, 'rivals'],
    ] as const)
      assert.equal((await enroll(id, shown, { label })).status, 200)
  })

  test('the same hardware that came in under two names is put on hold with the theft of one, until somebody enables it', async () => {
    const pair = async (n: number) => {
      const entries = ['a', 'b'].map((name) => ({ serial: `T${n}${name}`, deviceId: `twin-${n}${name}` }))
      await fleet.admin('POST', '/devices/allow', { label: 'line', entries })
      const first = await maker.factory(named(entries[0]!.serial))
      const second = await maker.factory(named(entries[1]!.serial), { key: first.key })
      await enroll(entries[0]!.deviceId, first)
      return certificateOf(await enroll(entries[1]!.deviceId, second)).serial
    }
    const states = async (...ids: string[]) =>
      Promise.all(ids.map(async (id) => (await fleet.admin('GET', `/devices/${id}`)).body.status))
    const second = await pair(1)
    for (const _ of [1, 2]) {
      const { body } = await fleet.admin('POST', '/devices/twin-1a/stolen')
      assert.deepEqual([body.sameHardware, body.sameSerialNumber], [['twin-1b'], undefined])
      const { evidence } = (await fleet.admin('GET', `/incidents/${body.incident}`)).body
      assert.deepEqual(evidence[0].details.sameHardware, ['twin-1b'])
    }
    assert.deepEqual(await states('twin-1a', 'twin-1b'), ['revoked', 'held'])
    assert.equal((await fleet.admin('GET', `/certificates/${second}`)).body.status, 'held')
    assert.equal((await fleet.admin('POST', '/devices/twin-1b/enable')).status, 200)
    await fleet.admin('POST', '/devices/twin-1a/stolen')
    assert.deepEqual(await states('twin-1b'), ['active'], 'the same report again takes back nothing')
    // Both in one order: what is said of a device goes before what follows from the other.
    await pair(2)
    const ids = ['twin-2a', 'twin-2b']
    const { body } = await fleet.admin('POST', '/devices/bulk', { verb: 'stolen', ids })
    assert.deepEqual(
      body.devices.map(({ outcome }: { outcome: string }) => outcome),
      ['done', 'done'],
      JSON.stringify(body),
    )
    assert.deepEqual(await states(...ids), ['revoked', 'revoked'])
    // One of two in an order for many: the other is foreseen, and named in the receipt.
    await pair(3)
    const named3 = [{ deviceId: 'twin-3a', outcome: 'done', sameHardware: ['twin-3b'] }]
    const foreseen = await fleet.admin('GET', '/foreseen?verb=stolen&deviceId=twin-3a')
    assert.deepEqual([foreseen.body.devices, await states('twin-3a', 'twin-3b')], [named3, ['active', 'active']])
    const three = await fleet.admin('POST', '/devices/bulk', { verb: 'stolen', ids: ['twin-3a'] })
    assert.deepEqual([three.body.devices, await states('twin-3a', 'twin-3b')], [named3, ['revoked', 'held']])
    await fleet.admin('POST', '/devices/twin-3b/enable')
    const later = await fleet.admin('POST', '/devices/bulk', { verb: 'stolen', ids: ['twin-3a'] })
    assert.deepEqual(later.body.devices, [{ deviceId: 'twin-3a', outcome: 'already' }], 'enabled since')
  })

  test('two at once: neither token nor factory certificate is enough alone, and both have to be of one device', async () => {
    const token = await fleet.token('vault-1', { profile: 'vault' })
    const entries = [
      { serial: 'V1', deviceId: 'vault-1' },
      { serial: 'V2', deviceId: 'vault-2' },
    ]
    await fleet.admin('POST', '/devices/allow', { label: 'safe', entries })
    const [right, wrong] = [await maker.factory(named('V1')), await maker.factory(named('V2'))]
    const label = 'safe'
    assert.deepEqual(await refusedAs(enroll('vault-1', undefined, { label, token })), [401, 'certificate_missing'])
    assert.deepEqual(await refusedAs(enroll('vault-1', right, { label })), [401, 'unauthenticated'])
    assert.deepEqual(await refusedAs(enroll('vault-1', wrong, { label, token })), [403, 'evidence_mismatch'])
    assert.equal((await enroll('vault-1', right, { label, token })).status, 200)
    assert.deepEqual(await refusedAs(enroll('vault-1', right, { label, token })), [403, 'token_spent'])
  })

  test('a serial number that is taken off the list enrolls nothing, not as the device of that name either, until it is allowed again', async () => {
    const list = async (query: string) => (await fleet.admin('GET', `/allowances?${query}`)).body.items
    const entries = [
      { serial: 'SN90', deviceId: 'SN90' },
      { serial: 'SN/91 ü', deviceId: 'gauge-91' },
    ]
    await fleet.admin('POST', '/devices/allow', { label: 'line', entries })
    const [listed] = await list('deviceId=gauge-91')
    assert.deepEqual([listed.label, listed.serial], ['line', 'SN/91 ü'])
    assert.deepEqual(await list('label=nowhere'), [])
    const idevid = await maker.factory(named('SN90'))
    const device = await enroll('SN90', idevid)
    assert.equal(device.status, 200)

    const serials = ['SN90', 'SN/91 ü', 'SN90', 'nobody']
    const removal = { label: 'line', serials }
    assert.deepEqual((await fleet.admin('POST', '/devices/disallow', removal)).body, { removed: 2 })
    assert.deepEqual((await fleet.admin('POST', '/devices/disallow', removal)).body, { removed: 0 })
    assert.deepEqual(await list('deviceId=SN90'), [])
    assert.deepEqual(await refusedAs(enroll('SN90', idevid)), [403, 'device_not_allowed'])
    const { body: audit } = await fleet.admin('GET', '/audit?limit=100')
    const entry = audit.items.findLast(({ action }: { action: string }) => action === 'device.disallowed')
    assert.deepEqual([entry.subject, entry.details.devices], ['label:line', ['SN90', 'gauge-91']])
    const { body: certificates } = await fleet.admin('GET', '/certificates?deviceId=SN90')
    assert.equal(certificates.items[0].status, 'issued', 'what it has stays good')

    const again = { label: 'line', entries: [{ serial: 'SN90', deviceId: 'SN90' }] }
    assert.deepEqual((await fleet.admin('POST', '/devices/allow', again)).body, { added: 1 })
    assert.equal((await enroll('SN90', idevid)).status, 200)
  })

  test('the same Idempotency-Key has one effect and the first answer, whatever was changed since, also when all ask at once', async () => {
    const ask = (verb: string, key: string, body: object) =>
      fleet.admin('POST', `/devices/${verb}`, { label: 'line', ...body }, { 'Idempotency-Key': `key-${key}` })
    const entries = ['95', '96'].map((n) => ({ serial: `SN${n}`, deviceId: `gauge-${n}` }))
    const serials = entries.map(({ serial }) => serial)
    const listed = async (): Promise<number> =>
      (await fleet.admin('GET', '/allowances?label=line&limit=1000')).body.items.filter((item: { serial: string }) =>
        serials.includes(item.serial),
      ).length
    const allowed = await Promise.all(Array.from({ length: 5 }, () => ask('allow', 'allow-1', { entries })))
    assert.deepEqual(new Set(allowed.map(({ body }) => body.added)), new Set([2]))
    assert.deepEqual((await ask('allow', 'allow-2', { entries })).body, { added: 0 })
    const removed = await Promise.all(Array.from({ length: 5 }, () => ask('disallow', 'remove-1', { serials })))
    assert.deepEqual(new Set(removed.map(({ body }) => body.removed)), new Set([2]))
    assert.deepEqual((await ask('disallow', 'remove-2', { serials })).body, { removed: 0 })
    await fleet.admin('POST', '/devices/gauge-95/revoke', { reason: 'superseded' })
    assert.deepEqual((await ask('allow', 'allow-1', { entries })).body, { added: 2 })
    assert.deepEqual((await ask('allow', 'allow-2', { entries })).body, { added: 0 })
    assert.equal(await listed(), 0, 'what was asked again put nothing back')
    const last = entries.slice(1)
    assert.deepEqual((await ask('allow', 'allow-3', { entries: last })).body, { added: 1 })
    assert.deepEqual((await ask('disallow', 'remove-2', { serials })).body, { removed: 0 })
    assert.equal(await listed(), 1, 'nor took it off')
    const other = await ask('allow', 'allow-1', { entries: last })
    assert.deepEqual([other.status, other.body.code], [409, 'conflict'])
  })

  test('a list that contradicts itself or the registry changes nothing', async () => {
    const allow = (label: string, ...entries: object[]) => fleet.admin('POST', '/devices/allow', { label, entries })
    const cases: [Awaited<ReturnType<typeof allow>>, number, RegExp][] = [
      [await allow('line', { serial: 'a', deviceId: 'd-1' }, { serial: 'a', deviceId: 'd-2' }), 400, /a stands twice/],
      [
        await allow('line', { serial: 'b', deviceId: 'd-3' }, { serial: 'PID:G1 SN:0001', deviceId: 'd-4' }),
        409,
        /as gauge-1, not as d-4/,
      ],
      [await allow('safe', { serial: 'c', deviceId: 'gauge-1' }), 409, /has the profile gauge/],
      [await allow('default', { serial: 'd', deviceId: 'd-5' }), 400, /no label default with a profile/],
    ]
    for (const [{ status, body }, wanted, detail] of cases) {
      assert.equal(status, wanted)
      assert.match(body.detail, detail)
    }
    const { body } = await fleet.admin('GET', '/devices?limit=1000')
    assert.deepEqual(
      body.items.filter(({ id }: { id: string }) => id.startsWith('d-')),
      [],
    )
    assert.deepEqual((await allow('line', { serial: 'PID:G1 SN:0001', deviceId: 'gauge-1' })).body, { added: 0 })
  })

  test('a file of authorities that cannot be used stops the start with its name', async () => {
    const path = join(folder, 'bad.pem')
    const fault = () => {
      try {
        readAuthorities(path, 'labels.line.factory')
      } catch (error) {
        assert.ok(isFleetError(error, 'config_invalid'))
        return error.message
      }
      throw new Error('it was taken')
    }
    assert.match(fault(), /^labels\.line\.factory: .*bad\.pem cannot be read/)
    writeFileSync(path, 'nothing')
    assert.match(fault(), /holds no certificate/)
    writeFileSync(path, (await maker.factory([{ CN: ['leaf'] }])).pem)
    assert.match(fault(), /certificate 1 of it: The certificate is not one of an authority/)
  })
})
