import assert from 'node:assert/strict'
import { createPrivateKey, X509Certificate } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, suite, test } from 'node:test'
import { generate } from 'lean-qr'
import { renewalDue } from '../../../device-sim/credential-folder.ts'
import { parseCertificate } from '../../../pki/certificate.ts'
import { createCsr } from '../../../pki/x509.ts'
import { writeEndpoints } from '../../../runtime/endpoints.ts'
import { TestPki } from '../../harness/certificates.ts'
import { certificateOf, EnrollHarness, movableClock, pemToDer, testConfiguration } from '../../harness/fleet.ts'
import { fleetgate } from '../../harness/stub-io.ts'

const day = 86_400_000

suite('fleetgate enroll and renew', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
  const at = (...names: string[]): string => join(folder, ...names)
  // A certificate of 30 days that the gateway made 25 days ago is due by the device's clock.
  const clock = movableClock(new Date(Date.now() - 25 * day))
  let maker: TestPki
  let fleet: EnrollHarness
  let pin: string[]
  before(async () => {
    maker = await TestPki.create('Maker')
    writeFileSync(at('maker.pem'), maker.issuing.pem)
    fleet = await EnrollHarness.start({
      clock: clock.now,
      config: testConfiguration({
        profiles: {
          camera: {},
          badge: { validityDays: 1, keyTypes: ['P-384'] },
          kiosk: { evidence: ['approval'] },
          gauge: { evidence: ['factory'] },
        },
        labels: { lobby: { profile: 'kiosk' }, line: { profile: 'gauge', factory: { authorities: at('maker.pem') } } },
        enroll: { approvals: { retryAfterMs: 1_000 } },
      }),
    })
    pin = ['--ca-fingerprint', fleet.endpoints.rootFingerprint]
  })
  after(async () => {
    await fleet[Symbol.asyncDispose]()
    rmSync(folder, { recursive: true })
  })

  const enroll = async (id: string, ...more: string[]) =>
    fleetgate(['enroll', '--url', fleet.endpoints.est, ...pin, '--id', id, '--out', at(id), ...more])
  const holds = (id: string): string =>
    new X509Certificate(readFileSync(at(id, 'current', 'cert.pem'))).serialNumber.toLowerCase()

  test('a token makes a folder with a key that nobody else can read, a chain to the pinned root, and nothing half-made', async () => {
    writeFileSync(at('token'), `${await fleet.token('cam-1')}\n`)
    const { code, err, out } = await enroll('cam-1', '--token-file', at('token'), '-o', 'json')
    assert.deepEqual([code, err], [0, ''])
    const shown = JSON.parse(out)
    assert.deepEqual([shown.device, shown.certificate], ['cam-1', holds('cam-1')])
    assert.equal(statSync(at('cam-1', 'current', 'key.pem')).mode & 0o777, 0o600)
    const names = ['ca.pem', `cert-${holds('cam-1')}`, 'current', 'gateway.json']
    assert.deepEqual(readdirSync(at('cam-1')).sort(), names)
    assert.equal(readFileSync(at('cam-1', 'ca.pem'), 'utf8'), fleet.root)
    const chain = readFileSync(at('cam-1', 'current', 'chain.pem'), 'utf8').split(/(?<=END CERTIFICATE-----\n)/)
    assert.deepEqual([chain.length, new X509Certificate(chain[1]!).ca], [2, true])

    const again = await enroll('cam-1', '--token', 'x')
    assert.equal(again.code, 1)
    assert.match(again.err, /holds a certificate already/)
  })

  test('token create --qr draws what a device needs, dark on light, and enroll --code takes the line that is in it', async () => {
    writeEndpoints(fleet.dataDir, { ...fleet.endpoints, mqtts: 'mqtts://localhost:1' })
    const create = ['token', 'create', '--profile', 'camera', '--data', fleet.dataDir, '--device']
    const { code, out, err } = await fleetgate([...create, 'cam-qr', '--qr'])
    assert.deepEqual([code, err], [0, ''])
    const [shown = '', drawn = '', line = ''] = out.split('\n\n')
    assert.match(shown, /^device +cam-qr\n/)
    const { size, get } = generate(line.trimEnd())
    const rows = drawn.split('\n').map((row) => [...row])
    const isDark = (x: number, y: number): boolean =>
      (y % 2 === 0 ? ' ▄' : ' ▀').includes(rows[Math.floor(y / 2)]?.[x] ?? 'outside')
    for (let y = 0; y < size + 8; y++)
      for (let x = 0; x < size + 8; x++) assert.equal(isDark(x, y), get(x - 4, y - 4), `${x} ${y}`)
    const coloured = (await fleetgate([...create, 'cam-qs', '--qr'], { colour: true })).out
    assert.ok(coloured.includes('\u001b[97m\u001b[40m█'))

    writeFileSync(at('code'), line)
    const enrolled = await fleetgate(['enroll', '--code', at('code'), '--out', at('cam-qr')])
    assert.deepEqual([enrolled.code, enrolled.err], [0, ''])
    const other = await fleetgate([...create, 'cam-qt', '--qr', '--url', 'https://[::1]:8443/.well-known/est/line'])
    const spoken = /\nfleetgate:\/\/cam-qt:(\S+)@\[::1\]:8443\/\.well-known\/est\/line\?ca=[0-9a-f]{64}\n$/.exec(
      other.out,
    )
    assert.match(shown, /token +\S{43,}/)
    assert.ok(spoken)
    const stdin = { readSecret: async () => line.replace(/:[^:@]+@/, `:${'B'.repeat(43)}@`) }
    const refused = await fleetgate(['enroll', '--code', '-', '--out', at('cam-qu')], stdin)
    assert.deepEqual([refused.code, /token_\w+/.exec(refused.err)?.[0]], [3, 'token_invalid'])
  })

  test('a code of another form is refused without a word of it, and --qr is for one token at a terminal', async () => {
    const good = 'fleetgate://cam-9:SECRET@localhost:8443/?ca='
    for (const text of [
      '',
      'SECRET',
      'https://SECRET',
      good,
      `${good}${'zz'.repeat(32)}`,
      `${'x'.repeat(3_000)}SECRET`,
    ]) {
      writeFileSync(at('code'), text)
      const { code, out, err } = await fleetgate(['enroll', '--code', at('code'), '--out', at('cam-9')])
      assert.deepEqual([code, out, err.includes('SECRET')], [1, '', false])
      assert.match(err, /holds no enrollment code \(request_malformed\); it begins with fleetgate:/)
    }
    for (const more of [
      ['--device', 'cam-1', '--qr', '--quiet'],
      ['--device', 'cam-1', '--qr', '-o', 'json'],
      ['--count', '2', '--prefix', 'c', '--qr'],
      ['--device', 'cam-1', '--url', 'https://x'],
    ])
      assert.equal((await fleetgate(['token', 'create', ...more])).code, 2, more.join(' '))
    const both = ['enroll', '--code', at('code'), '--id', 'cam-1', '--out', at('x')]
    assert.equal((await fleetgate(both)).code, 2)
  })

  test('renew does nothing and exits 0 when nothing is due; --check says that it is, with exit code 3', async () => {
    const before = holds('cam-1')
    const calm = await fleetgate(['renew', '--dir', at('cam-1'), '--at', '95', '-o', 'json'])
    assert.deepEqual([calm.code, JSON.parse(calm.out).renewed, holds('cam-1')], [0, 'no', before])
    assert.equal((await fleetgate(['renew', '--dir', at('cam-1'), '--at', '95', '--check'])).code, 0)
    const due = await fleetgate(['renew', '--dir', at('cam-1'), '--check'])
    assert.deepEqual([due.code, holds('cam-1')], [3, before])
    assert.match(due.err, /\(renewal_due\)/)
  })

  test('renew exchanges key and certificate in one step, and keeps the files of the one before for who has them open', async () => {
    const before = readlinkSync(at('cam-1', 'current'))
    const key = readFileSync(at('cam-1', 'current', 'key.pem'), 'utf8')
    const { code, err, out } = await fleetgate(['renew', '--dir', at('cam-1')])
    assert.deepEqual([code, err], [0, ''])
    assert.match(out, /renewed +yes/)
    assert.notEqual(readFileSync(at('cam-1', 'current', 'key.pem'), 'utf8'), key)
    assert.ok(existsSync(at('cam-1', before)))
    const { body } = await fleet.admin('GET', '/devices/cam-1')
    assert.equal(body.currentSerial, holds('cam-1'))
    assert.equal((await fleetgate(['renew', '--dir', at('cam-1'), '--at', '95', '--force'])).code, 0)
    assert.equal(existsSync(at('cam-1', before)), false)
  })

  test('a refusal is exit code 3 with the code of the gateway, and leaves key and request for the next try', async () => {
    const token = await fleet.token('cam-2')
    const refused = await enroll('cam-2', '--token', 'B'.repeat(43))
    assert.equal(refused.code, 3)
    assert.match(refused.err, /this token is not valid for this device id \(token_invalid\)/)
    const key = readFileSync(at('cam-2', 'pending', 'key.pem'), 'utf8')
    assert.equal(statSync(at('cam-2', 'pending', 'key.pem')).mode & 0o777, 0o600)
    assert.equal((await enroll('cam-2', '--token', token)).code, 0)
    assert.equal(readFileSync(at('cam-2', 'current', 'key.pem'), 'utf8'), key)
  })

  test('an answer that was lost is fetched again with the same key, and gives the same certificate', async () => {
    const token = await fleet.token('cam-3')
    await enroll('cam-3', '--token', 'B'.repeat(43))
    const csr = readFileSync(at('cam-3', 'pending', 'request.der'))
    assert.equal((await fleet.enroll('cam-3', token, csr)).status, 200)
    assert.equal((await enroll('cam-3', '--token', token)).code, 0)
    const { body } = await fleet.admin('GET', '/certificates?deviceId=cam-3')
    assert.deepEqual(
      body.items.map((item: { serial: string }) => item.serial),
      [holds('cam-3')],
    )
  })

  test('what waits for approval is asked for again after the time that the gateway says', async () => {
    const url = `${fleet.endpoints.est}/.well-known/est/lobby`
    const waiting = enroll('kiosk-1', '--url', url)
    let id: string | undefined
    while (id === undefined) {
      const { body } = await fleet.admin('GET', '/approvals?decision=pending')
      id = body.items[0]?.id
    }
    await fleet.admin('POST', `/approvals/${id}/approve`, {})
    const { code, err } = await waiting
    assert.deepEqual([code, err], [0, 'waiting for an operator to approve the request\n'])
    assert.equal((await fleetgate(['renew', '--dir', at('kiosk-1'), '--force'])).code, 0)
  })

  test('waiting ends at --timeout and at a signal, and the next call goes on with the same request', async () => {
    const url = `${fleet.endpoints.est}/.well-known/est/lobby`
    const short = await enroll('kiosk-2', '--url', url, '--timeout', '0s')
    assert.equal(short.code, 1)
    assert.match(short.err, /nobody has approved the request yet \(unavailable\)/)
    const argv = ['enroll', '--url', url, ...pin, '--id', 'kiosk-2', '--out', at('kiosk-2')]
    const stopped = await fleetgate(argv, { untilSignal: () => AbortSignal.abort('SIGINT') })
    assert.equal(stopped.code, 1)
    assert.match(stopped.err, /interrupted by SIGINT while the request waits/)
    const { body } = await fleet.admin('GET', '/approvals?decision=pending')
    assert.equal(body.items.length, 1)
  })

  test('renew with a certificate that has expired is refused until an operator allows it', async () => {
    const token = await fleet.token('badge-1', { profile: 'badge' })
    assert.equal((await enroll('badge-1', '--token', token, '--key-type', 'P-384')).code, 0)
    clock.advance(2 * day)
    const refused = await fleetgate(['renew', '--dir', at('badge-1')])
    assert.equal(refused.code, 3)
    assert.match(refused.err, /the certificate expired at .*\(certificate_expired\)/)
    await fleet.admin('PUT', '/late-renewals/badge-1', {})
    // Its answer is lost: the permission is for the key that is kept for the next try.
    const { subject } = parseCertificate(pemToDer(readFileSync(at('badge-1', 'current', 'cert.pem'), 'utf8')))
    const privateKeyPem = readFileSync(at('badge-1', 'pending', 'key.pem'), 'utf8')
    const [key, certificate] = ['key.pem', 'cert.pem'].map((name) =>
      readFileSync(at('badge-1', 'current', name), 'utf8'),
    )
    const lost = await fleet.reenroll(
      { key: key!, certificate: certificate! },
      await createCsr({ privateKeyPem, subject: subject.der }),
    )
    const { code, err } = await fleetgate(['renew', '--dir', at('badge-1')])
    clock.advance(-2 * day)
    assert.deepEqual([lost.status, code, err], [200, 0, ''])
    assert.equal(holds('badge-1'), certificateOf(lost).serial)
    assert.equal(existsSync(at('badge-1', 'pending')), false)
  })

  test('without --id it says as which device it asks, before a refusal that does not', async () => {
    const token = await fleet.token('cam-of-another-name')
    const argv = ['enroll', '--url', fleet.endpoints.est, ...pin, '--out', at('by-machine'), '--token', token]
    const { code, err } = await fleetgate(argv)
    assert.equal(code, 3)
    assert.ok(err.startsWith(`asking as ${hostname()}, the name of this machine; --id names another\nerror: `), err)
    assert.match(err, /\(token_invalid\)/)
  })

  test('a folder that cannot be made is named before the gateway is asked, and the token is good for another', async () => {
    const token = await fleet.token('cam-5')
    writeFileSync(at('file'), '')
    const { code, err } = await enroll('cam-5', '--out', at('file', 'cam-5'), '--token', token)
    assert.equal(code, 2)
    assert.match(err, /the folder .*cam-5 cannot be made: .*file is a file \(data_damaged\)/)
    const empty = await enroll('cam-5', '--token-file', at('file'))
    assert.deepEqual([empty.code, /there is no token in .*file \(/.test(empty.err)], [1, true])
    assert.equal((await enroll('cam-5', '--token', token)).code, 0)
  })

  test('of two that renew at the same time both are answered, and one whole certificate is in force', async () => {
    const renew = () => fleetgate(['renew', '--dir', at('cam-5'), '--force'])
    const codes = (await Promise.all([renew(), renew()])).map(({ code }) => code)
    const current = new X509Certificate(readFileSync(at('cam-5', 'current', 'chain.pem')))
    assert.ok(current.checkPrivateKey(createPrivateKey(readFileSync(at('cam-5', 'current', 'key.pem')))))
    assert.deepEqual(codes, [0, 0])
  })

  test('a clock that is far behind is named, where it would call nothing due until the certificate has ended', async () => {
    const later = await maker.device('cam-6', {
      notBefore: new Date(Date.now() + day),
      notAfter: new Date(Date.now() + 9 * day),
    })
    mkdirSync(at('cam-6', 'current'), { recursive: true })
    writeFileSync(
      at('cam-6', 'gateway.json'),
      JSON.stringify({ url: fleet.endpoints.est, rootFingerprint: '', id: 'cam-6' }),
    )
    for (const [name, text] of [
      ['key.pem', later.key],
      ['cert.pem', later.pem],
      ['chain.pem', later.pem],
    ] as const)
      writeFileSync(at('cam-6', 'current', name), text, { mode: 0o600 })
    for (const more of [[], ['--check']]) {
      const { code, err } = await fleetgate(['renew', '--dir', at('cam-6'), ...more])
      assert.equal(code, 1)
      assert.match(
        err,
        /begins at .*, and the clock of this machine says .*\(certificate_not_yet_valid\); set the clock/,
      )
    }
  })

  test('a factory certificate is shown with --cert and --key', async () => {
    await fleet.admin('POST', '/devices/allow', { label: 'line', entries: [{ serial: 'SN1', deviceId: 'gauge-1' }] })
    const idevid = await maker.factory([{ '2.5.4.5': ['SN1'] }], { notBefore: new Date(Date.now() - 100 * day) })
    writeFileSync(at('idevid.pem'), idevid.pem)
    writeFileSync(at('idevid.key'), idevid.key, { mode: 0o600 })
    const url = `${fleet.endpoints.est}/.well-known/est/line`
    const shown = ['--url', url, '--cert', at('idevid.pem'), '--key', at('idevid.key')]
    const { code, err } = await enroll('gauge-1', ...shown)
    assert.deepEqual([code, err], [0, ''])
    chmodSync(at('idevid.key'), 0o644)
    const loose = await enroll('gauge-2', ...shown)
    assert.equal(loose.code, 2)
    assert.match(loose.err, /chmod 600/)
  })

  test('a gateway with another root is not spoken to, and one that is not there is named', async () => {
    const other = await fleetgate([
      'enroll',
      '--url',
      fleet.endpoints.est,
      '--ca-fingerprint',
      'ab'.repeat(32),
      '--id',
      'cam-4',
      '--out',
      at('cam-4'),
      '--token',
      'x',
    ])
    assert.equal(other.code, 1)
    assert.match(other.err, /gateway_untrusted/)
    assert.equal(existsSync(at('cam-4')), false)
    const away = await enroll('cam-4', '--url', 'https://127.0.0.1:1', '--token', 'x')
    assert.equal(away.code, 1)
    assert.match(away.err, /https:\/\/127\.0\.0\.1:1 cannot be reached: .*\(unavailable\)/)
  })

  test('what is missing or cannot be meant is exit code 2', async () => {
    const cases: [string[], RegExp][] = [
      [['enroll', '--out', at('x')], /'--url' is not given/],
      [['enroll', '--url', fleet.endpoints.est, '--out', at('x')], /'--ca-fingerprint' is not given/],
      [['enroll', '--url', 'http://gateway', ...pin, '--out', at('x')], /such as https/],
      [['enroll', '--url', fleet.endpoints.est, '--ca-fingerprint', 'ab'], /64 hexadecimal digits/],
      [['enroll', '--url', fleet.endpoints.est, ...pin, '--out', at('x'), '--cert', 'a'], /belong together/],
      [['enroll', '--url', fleet.endpoints.est, ...pin, '--out', at('x'), '--key-uri', 'key.pem'], /such as pkcs11:/],
      [['enroll', '--out', at('x'), '--key-uri', 'pkcs11:object=k', '--key-type', 'P-384'], /cannot be used with/],
      [['renew', '--dir', at('nothing')], /enroll first/],
      [['enroll', 'allow-late'], /give a device id, or --list/],
      [['enroll', 'allow-late', 'cam-1', '--list'], /give a device id, or --list/],
      [['enroll', 'allow-late', 'cam-1', '--ttl', '1h', '--withdraw'], /do not go together/],
    ]
    for (const [argv, said] of cases) {
      const { code, err } = await fleetgate(argv)
      assert.equal(code, 2, err)
      assert.match(err, said)
    }
  })

  test('certificates that were made together are due apart, between two thirds and a twentieth more', async () => {
    const due = await Promise.all(
      Array.from({ length: 8 }, async () => {
        const { pem, notAfter } = await maker.device('cam-1')
        const start = new X509Certificate(pem).validFromDate.getTime()
        return (renewalDue(pem, 0.67).getTime() - start) / (notAfter.getTime() - start)
      }),
    )
    assert.equal(new Set(due).size, due.length)
    for (const part of due) assert.ok(part >= 0.67 && part < 0.72, String(part))
  })
})
