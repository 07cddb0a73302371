import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, suite, test } from 'node:test'
import { startCursor } from '../../../contract/feed.ts'
import type { Reloaded } from '../../../contract/live-settings.ts'
import { createKeyAndCsr } from '../../../pki/x509.ts'
import { loadConfig } from '../../../runtime/config.ts'
import { writeEndpoints } from '../../../runtime/endpoints.ts'
import { revocationList, TestPki } from '../../harness/certificates.ts'
import { EnrollHarness } from '../../harness/fleet.ts'
import { followFeed } from '../../harness/follower.ts'
import { fleetgate } from '../../harness/stub-io.ts'

suite('devices and tokens by the hundred', () => {
  let fleet: EnrollHarness
  before(async () => {
    fleet = await EnrollHarness.start()
    const { est, admin, rootFingerprint, rootCertificate, operatorCertificate, operatorKey } = fleet.endpoints
    const own = { est, admin, rootFingerprint, rootCertificate, operatorCertificate, operatorKey }
    writeEndpoints(fleet.dataDir, { ...own, mqtts: 'mqtts://localhost:1' })
  })
  after(() => fleet[Symbol.asyncDispose]())

  const cli = (...words: string[]) => fleetgate([...words, '--data', fleet.dataDir])
  const file = (name: string, text: string): string => {
    const path = join(fleet.dataDir, name)
    writeFileSync(path, text)
    return path
  }
  const outcomes = (body: { devices: { outcome: string; code?: string }[] }) =>
    body.devices.map(({ outcome, code }) => code ?? outcome)

  test('devices are registered in one batch; what is there already and alike stays, what cannot be is named', async () => {
    const devices = [
      { id: 'many-1', profile: 'camera', groups: ['b', 'a'], attributes: { site: 'x' } },
      { id: 'many-2', profile: 'sensor' },
      { id: 'many-3', profile: 'nosuch' },
    ]
    const dry = await fleet.admin('POST', '/devices/import', { devices, dryRun: true })
    assert.deepEqual(outcomes(dry.body), ['created', 'created', 'profile_unknown'])
    const atomic = await fleet.admin('POST', '/devices/import', { devices, atomic: true })
    assert.deepEqual([dry.body.applied, atomic.body.applied], [false, false])
    assert.equal((await fleet.admin('GET', '/devices/many-1')).status, 404)

    const done = await fleet.admin('POST', '/devices/import', { devices })
    assert.deepEqual([outcomes(done.body), done.body.applied], [['created', 'created', 'profile_unknown'], true])
    const { items } = (await fleet.admin('GET', '/audit?limit=2')).body
    assert.deepEqual(
      items.map(({ action, subject }: Record<string, string>) => `${action} ${subject}`),
      ['device.created device:many-1', 'device.created device:many-2'],
    )
    await fleet.admin('POST', '/devices/many-2/revoke', { reason: 'superseded' })
    const again = await fleet.admin('POST', '/devices/import', {
      devices: [{ ...devices[0], groups: ['a', 'b'] }, devices[1], { id: 'many-4', profile: 'camera' }],
    })
    assert.deepEqual(outcomes(again.body), ['already', 'device_revoked', 'created'])
    const other = await fleet.admin('POST', '/devices/import', { devices: [{ id: 'many-1', profile: 'sensor' }] })
    assert.deepEqual(outcomes(other.body), ['device_exists'])
    assert.match(other.body.devices[0].detail, /with the profile camera and other groups and other attributes/)
  })

  test('each token is for its device, works, and is shown once', async () => {
    const tokens = [
      { deviceId: 'tok-1', profile: 'camera', groups: ['hall'] },
      { deviceId: 'tok-2' },
      { deviceId: 'tok-3', groups: ['hall'] },
    ]
    const headers = { 'Idempotency-Key': 'batch-0001' }
    const { body } = await fleet.admin('POST', '/tokens/batch', { tokens }, headers)
    assert.deepEqual(
      body.tokens.map(({ outcome, code }: Record<string, string>) => code ?? outcome),
      ['created', 'device_unknown', 'request_malformed'],
    )
    const { csrDer } = await createKeyAndCsr({ commonName: 'tok-1' })
    assert.equal((await fleet.enroll('tok-1', body.tokens[0].token, csrDer)).status, 200)
    const again = await fleet.admin('POST', '/tokens/batch', { tokens }, headers)
    assert.deepEqual([again.status, again.body.code], [403, 'token_void'])
  })

  test('a request is bounded, and names a device once', async () => {
    const device = (at: number) => ({ id: `bound-${at}`, profile: 'camera' })
    const many = Array.from({ length: 1_001 }, (_, at) => device(at))
    for (const [path, body] of [
      ['/devices/import', { devices: many }],
      ['/devices/import', { devices: [] }],
      ['/devices/import', { devices: [device(1), device(1)] }],
      ['/tokens/batch', { tokens: [{ deviceId: 'a' }, { deviceId: 'a' }] }],
      ['/tokens/batch', { tokens: [{ deviceId: 'a' }], ttlMs: 1 }],
    ] as const) {
      const answer = await fleet.admin('POST', path, body)
      assert.deepEqual([answer.status, answer.body.code], [400, 'request_malformed'], JSON.stringify(body).slice(0, 80))
    }
  })

  test('fleetgate device import reads CSV with quotes and says of each line what became of it', async () => {
    const csv = file(
      'devices.csv',
      '\ufeffid,profile,groups,attributes\r\n# a comment\r\nfile-1,camera,hall;roof,"site=a ""b"", c;floor=2"\r\n\r\nfile-2,sensor,,\r\nfile-2,sensor,,\r\nb/d,camera,,\r\nfile-3,camera,,,more\r\n',
    )
    const dry = await cli('device', 'import', '--file', csv, '--dry-run')
    assert.equal(dry.code, 3)
    assert.match(dry.out, /^devices +5\nwould be registered +2\nthere already +0\nrefused +3\n/)
    assert.match(dry.err, /3 of 5 lines were refused, nothing was registered/)
    const { code, out, err } = await cli('device', 'import', '--file', csv, '-o', 'json')
    assert.deepEqual([code, /the others are registered/.test(err)], [3, true])
    const report = JSON.parse(out)
    assert.deepEqual(
      report.lines.map(({ line, deviceId, outcome }: Record<string, unknown>) => [line, deviceId, outcome]),
      [
        [3, 'file-1', 'created'],
        [5, 'file-2', 'created'],
        [6, 'file-2', 'refused'],
        [7, 'b/d', 'refused'],
        [8, 'file-3', 'refused'],
      ],
    )
    assert.match(report.lines[2].detail, /it stands in line 5 already/)
    const shown = (await fleet.admin('GET', '/devices/file-1')).body
    assert.deepEqual([shown.groups, shown.attributes], [['hall', 'roof'], { site: 'a "b", c', floor: '2' }])
  })

  test('with --atomic a file is registered whole or not at all; what is no list of devices is refused', async () => {
    const bad = file('bad.json', '[{"id":"atom-1","profile":"camera"},{"id":"atom-2"}]')
    const refused = await cli('device', 'import', '--file', bad, '--atomic')
    assert.deepEqual([refused.code, /nothing was registered/.test(refused.err)], [3, true])
    const good = file('good.json', '[{"id":"atom-1","profile":"camera"}]')
    const done = await cli('device', 'import', '--file', good, '--atomic')
    assert.deepEqual([done.code, done.out.match(/^registered +1$/m) !== null], [0, true])
    const long = file(
      'long.csv',
      `id,profile\n${Array.from({ length: 1_001 }, (_, at) => `l-${at},camera\n`).join('')}`,
    )
    assert.match((await cli('device', 'import', '--file', long, '--atomic')).err, /--atomic takes 1000 devices at most/)
    for (const [text, sentence] of [
      ['serial,device\nx,y\n', /Its first line names the columns: id.*seen: serial/],
      ['id,profile\n"a,camera\n', /Line 2: a quote is not where it belongs/],
      ['id,profile\n', /There is no device in it/],
      [Buffer.from([0xff, 0xfe]).toString('latin1'), /first line names the columns/],
    ] as const) {
      const { code, err } = await cli('device', 'import', '--file', file('x.csv', text))
      assert.equal(code, 2)
      assert.match(err, sentence)
    }
    const text = file('x.json', '{}')
    assert.match((await cli('device', 'import', '--file', text)).err, /A list of devices is wanted/)
  })

  test('fleetgate token create makes hundreds, by number or of a file, as CSV with their devices', async () => {
    const numbered = await cli(
      ...'token create --count 250 --prefix num- --profile camera --group hall -o csv'.split(' '),
    )
    assert.equal(numbered.code, 0, numbered.err)
    const lines = numbered.out.trimEnd().split('\n')
    assert.deepEqual([lines.length, lines[0]], [251, 'deviceId,profile,token,expiresAt'])
    assert.match(lines[250]!, /^num-0250,camera,[\w-]{43},2/)
    assert.deepEqual((await fleet.admin('GET', '/devices/num-0250')).body.groups, ['hall'])
    const csv = file('tokens.csv', 'id,profile,attributes\nnum-0001,\nof-file,sensor\nnobody,,\nnone,camera,a=b\n')
    const named = await cli('token', 'create', '--file', csv)
    assert.equal(named.code, 3)
    assert.match(named.out, /^num-0001 +camera/m)
    assert.match(named.out, /^of-file +sensor/m)
    assert.match(
      named.err,
      /nobody +device_unknown[^\n]*\nnone +device_unknown[^\n]*\n.*2 of 4 devices were given no token/,
    )
    const unknown = await cli(...'token create --count 30 --prefix none- --profile none -o csv'.split(' '))
    assert.deepEqual([unknown.code, unknown.out], [3, 'deviceId,profile,token,expiresAt\n'])
    assert.match(unknown.err, /none-0020 [^\n]*\nand 10 more[^\n]*\nerror: no token was made for any of 30 devices/)
    for (const words of ['--count 5', '--count 5 --prefix a/', '', '--count 5 --prefix a --quiet']) {
      assert.equal((await cli('token', 'create', ...words.split(' ').filter(Boolean))).code, 2, words)
    }
  })

  test('a list has its names alone for scripts, and YAML', async () => {
    await fleet.admin('POST', '/devices', { id: 'form-1', profile: 'camera', groups: ['forms'] })
    const ls = (form: string) => cli('device', 'ls', '--group', 'forms', '-o', form)
    assert.equal((await ls('name')).out, 'form-1\n')
    assert.match((await ls('yaml')).out, /^items:\n {2}- id: form-1\n {4}profile: camera\n/)
  })

  test('cert inspect says in words what a file is, whose it is here, and how its chain goes', async () => {
    const device = await fleet.enrolledDevice('seen-1')
    const path = file('seen.crt', device.certificate)
    const { code, out } = await cli('cert', 'inspect', path)
    assert.equal(code, 0)
    assert.match(out, /^subject +CN=seen-1.*\n/)
    assert.match(out, /\nkey +P-256\nis for +clientAuth\n/)
    assert.match(out, /\nvalid +2\S+ to 2\S+: \d+ days left of 30 days\n/)
    assert.match(out, /\nchain +CN=seen-1.* < .*, the root of this gateway\n/)
    assert.match(out, /\nin the registry +device, seen-1, profile camera, issued\n$/)
    const foreign = (await TestPki.create()).root.pem
    const other = JSON.parse((await cli('cert', 'inspect', file('other.crt', foreign), '-o', 'json')).out)
    assert.deepEqual([other.isCa, other.record], [true, undefined])
    assert.match(other.chain, /signs itself and is not the root of this gateway/)
    const alone = await fleetgate(['cert', 'inspect', path, '--data', join(fleet.dataDir, 'none')])
    assert.equal(alone.code, 0)
    assert.match(alone.out, /which is not at hand\nin the registry +No gateway runs on/)
    const none = await cli('cert', 'inspect', file('none.crt', 'x'))
    assert.deepEqual(
      [none.code, /there is no certificate in \S+none\.crt \(config_invalid\); name a file/.test(none.err)],
      [2, true],
    )
    assert.equal((await cli('cert', 'inspect', join(fleet.dataDir, 'nofile'))).code, 2)
  })

  test('ca ls names the CAs of the gateway and those that the configuration trusts, with how old their lists are', async () => {
    const pki = await TestPki.create()
    const root = file('partner.pem', pki.root.pem)
    const crl = join(fleet.dataDir, 'partner.crl')
    writeFileSync(crl, await revocationList(pki.root))
    const trust = `[{ label: partner, file: ${root}, deviceId: subject.CN, crl: ${crl} }, { label: late, file: ${root}, deviceId: subject.CN, crl: ${root} }]`
    const labels = `{ line: { profile: camera, factory: { authorities: ${root} } } }`
    const config = file('ca.yaml', `broker: { trust: ${trust} }\nlabels: ${labels}\n`)
    const ls = await cli('ca', 'ls', '--config', config)
    assert.equal(ls.code, 0, ls.err)
    assert.match(ls.out, /^CA +FOR .*\nroot +the issuing CA +2\S+ +- +CN=.*\nissuing +devices, .*\n/)
    assert.match(
      ls.out,
      /\nline\/factory +factory certificates, label line +2\S+ +- .*\npartner +devices.* 2\S+ +2\S+ +CN/,
    )
    assert.match(ls.out, /\nlate +devices, at listeners that trust it +2\S+ +it has no list of this CA +CN/)
    assert.equal(
      (await cli('ca', 'ls', '--config', config, '-o', 'name')).out,
      'root\nissuing\nline/factory\npartner\nlate\n',
    )
    const show = await cli('ca', 'show', 'partner', '--config', config)
    assert.match(show.out, /\nfile +\S+partner\.pem\nlist +\S+partner\.crl, of 2\S+, until 2\S+\n-----BEGIN/)
    const own = JSON.parse((await cli('ca', 'show', 'root', '-o', 'json')).out).items[0]
    assert.equal(own.fingerprint, fleet.endpoints.rootFingerprint)
    const none = await cli('ca', 'show', 'other', '--config', config)
    assert.deepEqual(
      [none.code, /there is no CA other \(not_found\); known: root, issuing, line/.test(none.err)],
      [3, true],
    )
    const gone = file('gone.yaml', `broker: { trust: [{ label: partner, file: ${root}x, deviceId: subject.CN }] }\n`)
    assert.match((await cli('ca', 'ls', '--config', gone)).err, /partner\.pemx cannot be read: there is no such file/)
  })

  test('the configuration is read anew on demand: what is another now, what waits, and a fault by its place', async () => {
    const { broker } = fleet.config
    const profiles = { ...fleet.config.profiles, camera: { ...fleet.config.profiles.camera!, validityDays: 9 } }
    const enroll = { ...fleet.config.enroll, renewalsPerHour: 1 }
    const changed = { ...broker, maxConnections: 7, maxConnectionsPerDevice: 3 }
    fleet.load = () => ({ ...fleet.config, profiles, enroll, broker: changed })
    await using feed = await followFeed(fleet, undefined)
    feed.send({ kind: 'hello', protocol: 1, broker: 'broker-1', cursor: startCursor, questions: ['reload'] })
    await feed.see(({ kind }) => kind === 'live')
    const answered = async (id: number, answer: Reloaded): Promise<void> => {
      const asked = await feed.see((message) => message.kind === 'ask' && message.id === id)
      assert.deepEqual(asked, { kind: 'ask', id, reload: {} })
      feed.send({ kind: 'answer', id, reload: [answer] })
    }
    const ofBroker = { changed: ['broker.maxConnectionsPerDevice'], waitsForRestart: ['broker.maxConnections'] }
    const [done] = await Promise.all([cli('config', 'reload'), answered(1, ofBroker)])
    assert.deepEqual(
      [done.code, done.out],
      [
        0,
        'was read         no file: the gateway was started without one, and looks for it at its next start\nin force now     profile camera, enroll.renewalsPerHour, broker.maxConnectionsPerDevice\nneeds a restart  broker.maxConnections\n',
      ],
    )
    const device = await fleet.enrolledDevice('limited-1')
    const renewal = await fleet.renewalCsr(device)
    assert.equal((await fleet.reenroll(device, renewal)).status, 200)
    assert.equal((await fleet.reenroll(device, renewal)).status, 429)
    const { items } = (await fleet.admin('GET', '/audit?limit=50')).body
    const told = (action: string) => items.find((entry: { action: string }) => entry.action === action)
    assert.deepEqual(
      [told('configuration.changed').actor, told('configuration.changed').details.by],
      ['operator:operator', 'request'],
    )
    assert.deepEqual(told('configuration.reloaded').details.brokers, ['broker-1 broker.maxConnectionsPerDevice'])
    const unable = { refused: 'line 3: no', changed: [], waitsForRestart: [] }
    const [kept] = await Promise.all([cli('config', 'reload'), answered(2, unable)])
    assert.deepEqual([kept.code, kept.out.split('\n')[1]], [3, 'in force now     nothing is another'])
    assert.match(kept.err, /broker-1 goes on with what it had: line 3: no \(config_invalid\)/)
    const bad = file('bad.yaml', 'log: { level: warn }\nprofiles:\n  camera: { validityDays: nine }\n')
    fleet.load = () => loadConfig({ file: bad, env: {} })
    const refused = await cli('config', 'reload')
    assert.equal(refused.code, 3)
    assert.match(refused.err, /bad\.yaml:3:13: profiles\.camera\.validityDays/)
  })
})
