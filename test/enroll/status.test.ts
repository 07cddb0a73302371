import 'reflect-metadata'
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { connect } from 'node:net'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { after, before, suite, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { AuthorityInfoAccessExtension, X509Certificate, X509Crl, X509CrlReason } from '@peculiar/x509'
import { OctetString } from 'asn1js'
import * as pkijs from 'pkijs'
import { listScopes } from '../../contract/crl-api.ts'
import { ocspAnswers } from '../../contract/metrics.ts'
import type { OcspResponder } from '../../enroll/ca/ocsp-responder.ts'
import { ListReaders } from '../../enroll/list-readers.ts'
import { createStatus } from '../../enroll/status.ts'
import { certsOnly } from '../../pki/cms.ts'
import { maxOcspRequestBytes, ocspFailure } from '../../pki/ocsp.ts'
import { writeEndpoints } from '../../runtime/endpoints.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { Log } from '../../runtime/log.ts'
import { type DeviceKeys, EnrollHarness, movableClock, pemToDer, testConfiguration } from '../harness/fleet.ts'
import { fleetgate } from '../harness/stub-io.ts'

const clock = movableClock()
const hour = 3_600_000

suite('the status port', () => {
  let fleet: EnrollHarness
  let base: string
  const open = async (change: object = {}): Promise<EnrollHarness> =>
    EnrollHarness.start({
      clock: clock.now,
      config: testConfiguration({
        enroll: {
          metrics: '127.0.0.1:0',
          status: { listen: '127.0.0.1:0', url: 'http://status.test', shards: 2, ...change },
        },
      }),
    })
  before(async () => {
    fleet = await open()
    base = fleet.endpoints.status!
  })
  after(() => fleet[Symbol.asyncDispose]())

  const fetched = async (path: string, init: RequestInit = {}) => {
    const answer = await fetch(`${base}${path}`, init)
    return { status: answer.status, headers: answer.headers, body: Buffer.from(await answer.arrayBuffer()) }
  }
  const certificates = (): pkijs.Certificate[] =>
    ['issuing.crt', 'root.crt'].map((name) =>
      pkijs.Certificate.fromBER(
        Uint8Array.from(pemToDer(readFileSync(join(fleet.dataDir, 'enroll', 'ca', name), 'utf8'))),
      ),
    )
  const crlUrlOf = ({ certificate }: Pick<DeviceKeys, 'certificate'>): string => {
    const read = pkijs.Certificate.fromBER(Uint8Array.from(pemToDer(certificate)))
    const extension = read.extensions!.find(({ extnID }) => extnID === '2.5.29.31')!
    const [point] = (extension.parsedValue as pkijs.CRLDistributionPoints).distributionPoints
    return (point!.distributionPoint as pkijs.GeneralName[])[0]!.value
  }
  const pathOf = (url: string): string => url.replace('http://status.test', '')
  async function ocspRequest(
    device: Pick<DeviceKeys, 'certificate'>,
    {
      nonce,
      issuer = certificates()[0]!,
      hashAlgorithm = 'SHA-256',
    }: { nonce?: Buffer; issuer?: pkijs.Certificate; hashAlgorithm?: string } = {},
  ): Promise<Buffer> {
    const made = new pkijs.OCSPRequest()
    const certificate = pkijs.Certificate.fromBER(Uint8Array.from(pemToDer(device.certificate)))
    await made.createForCertificate(certificate, { hashAlgorithm, issuerCertificate: issuer })
    if (nonce !== undefined) {
      const extnValue = new OctetString({ valueHex: Uint8Array.from(nonce).buffer }).toBER()
      made.tbsRequest.requestExtensions = [new pkijs.Extension({ extnID: '1.3.6.1.5.5.7.48.1.2', extnValue })]
    }
    return Buffer.from(made.toSchema(true).toBER())
  }
  const post = (body: Buffer) =>
    fetched('/ocsp', {
      method: 'POST',
      body: Uint8Array.from(body),
      headers: { 'Content-Type': 'application/ocsp-request' },
    })
  const get = (der: Buffer, init: RequestInit = {}) =>
    fetched(`/ocsp/${encodeURIComponent(der.toString('base64'))}`, init)
  const responseIn = (body: Buffer): pkijs.OCSPResponse => pkijs.OCSPResponse.fromBER(Uint8Array.from(body))
  async function statusIn(body: Buffer, device: DeviceKeys): Promise<number> {
    const certificate = pkijs.Certificate.fromBER(Uint8Array.from(pemToDer(device.certificate)))
    const { isForCertificate, status } = await responseIn(body).getCertificateStatus(certificate, certificates()[0]!)
    assert.ok(isForCertificate)
    return status
  }
  async function isVerified(body: Buffer): Promise<boolean> {
    const octets = responseIn(body).responseBytes!.response.valueBlock.valueHexView
    const basic = pkijs.BasicOCSPResponse.fromBER(Uint8Array.from(octets).buffer)
    const [issuing, root] = certificates()
    return basic.verify({ trustedCerts: [root!], issuerCerts: [issuing!] })
  }
  const failureIn = (body: Buffer): number => responseIn(body).responseStatus.valueBlock.valueDec
  const listed = async (path: string): Promise<X509Crl> => new X509Crl(Uint8Array.from((await fetched(path)).body))
  async function revoke(id: string, reason = 'keyCompromise'): Promise<void> {
    const { body } = await fleet.admin('POST', `/devices/${id}/revoke`, { reason })
    await published(body.feedSeq)
  }
  async function published(feedSeq: number): Promise<void> {
    while ((await fleet.admin('GET', '/status')).body.revocationLists.feedSeq < feedSeq) await delay(5)
  }

  test('a certificate leads to its list, its issuer and the responder; a revocation is on the list at once', async () => {
    const device = await fleet.enrolledDevice('cam-1')
    const facts = new X509Certificate(Uint8Array.from(pemToDer(device.certificate)))
    const access = facts.getExtension(AuthorityInfoAccessExtension)!
    assert.equal(access.ocsp[0]!.value, 'http://status.test/ocsp')
    // Some EST clients read no more of an answer on one line.
    const answer = certsOnly([pemToDer(device.certificate)]).toString('base64')
    assert.ok(answer.length < 1024, `${answer.length} octets`)
    const issuer = await fetched(pathOf(access.caIssuers[0]!.value))
    assert.deepEqual([issuer.status, issuer.headers.get('content-type')], [200, 'application/pkix-cert'])
    assert.ok(await facts.verify({ publicKey: new X509Certificate(Uint8Array.from(issuer.body)) }))

    const path = pathOf(crlUrlOf(device))
    assert.equal((await listed(path)).findRevoked(device.serial), null)
    await revoke('cam-1')
    const crl = await listed(path)
    assert.equal(crl.findRevoked(device.serial)!.reason, X509CrlReason.keyCompromise)
    assert.ok(await crl.verify({ publicKey: new X509Certificate(Uint8Array.from(issuer.body)) }))
    const all = path.replace(/\d+\.crl$/, 'all.crl')
    for (const other of [all, all.replace('all', 'all-delta'), path.replace('.crl', '-delta.crl')]) {
      assert.ok((await listed(other)).findRevoked(device.serial), other)
    }
    const shown = (await fleet.admin('GET', `/certificates/${device.serial}`)).body
    assert.equal(`/${shown.distributionPoint}.crl`, path)
  })

  test('the receipt of a revocation names the number of the lists that carry it, and a release names none', async () => {
    const device = await fleet.enrolledDevice('cam-receipt')
    const { body } = await fleet.admin('POST', '/devices/cam-receipt/disable', { waitMs: 60_000 })
    const crl = await listed(pathOf(crlUrlOf(device)))
    assert.equal(crl.findRevoked(device.serial)!.reason, X509CrlReason.certificateHold)
    const { number } = (await fleet.admin('GET', '/status')).body.revocationLists
    assert.ok(body.crlNumber > 0 && body.crlNumber <= number)
    const released = await fleet.admin('POST', '/devices/cam-receipt/enable', { waitMs: 60_000 })
    assert.equal(released.body.crlNumber, undefined)
  })

  test('fleetgate crl lists what is served, signs it anew, and reads it from a file', async () => {
    const run = async (...words: string[]) => {
      const { code, out, err } = await fleetgate(['crl', ...words])
      assert.equal(code, 0, err)
      return out
    }
    writeEndpoints(fleet.dataDir, { ...fleet.endpoints, mqtts: 'mqtts://localhost:1' })
    const data = ['--data', fleet.dataDir]
    const { items } = JSON.parse(await run('ls', ...data, '-o', 'json'))
    const { name } = await authority()
    assert.deepEqual(
      items.map((one: { name: string; scope: string }) => `${one.scope} ${one.name.replace(name, 'CA')}`).slice(0, 6),
      [
        'shards CA/0.crl',
        'deltas CA/0-delta.crl',
        'shards CA/1.crl',
        'deltas CA/1-delta.crl',
        'all CA/all.crl',
        'deltas CA/all-delta.crl',
      ],
    )
    assert.equal(items[6].scope, 'root')
    const number = Number(/^CRL number +(\d+)\n$/.exec(await run('publish', ...data))![1])
    assert.ok(number > items[0].number)
    const entry = (await fleet.admin('GET', '/audit?limit=1000')).body.items.find(
      ({ action }: { action: string }) => action === 'revocationLists.ordered',
    )
    assert.deepEqual([entry.subject, entry.outcome], [`authority:${name}`, 'done'])
    const shown = await run('show', '1-delta.crl', ...data)
    assert.match(shown, new RegExp(`^CRL number +${number}\ndelta to +lists from \\d+ on$`, 'm'))
    const file = join(fleet.dataDir, 'all.crl')
    writeFileSync(file, (await fetched(pathOf(items[4].url))).body)
    const issuer = join(fleet.dataDir, 'enroll', 'ca', 'issuing.crt')
    const inspected = await run('inspect', file, '--issuer', issuer)
    assert.match(inspected, new RegExp(`^CRL number +${number}$`, 'm'))
    assert.match(inspected, /^signature +of the CA in /m)
    const ambiguous = await fleetgate(['crl', 'show', 'all.crl', ...data])
    assert.match(ambiguous.err, /all\.crl is \S+\/all\.crl or \S+\/all\.crl/)
    const foreign = await fleetgate(['crl', 'inspect', file, '--issuer', join(fleet.dataDir, 'root.crt')])
    assert.match(foreign.err, /is not signed by the CA of/)
  })

  test('age and end of the lists are metrics, by scope', async () => {
    const text = await (await fetch(`${fleet.probes}/metrics`)).text()
    const ends = clock.now().getTime() / 1_000
    for (const scope of listScopes) {
      const [age, end] = ['age', 'next_update'].map((what) =>
        Number(new RegExp(`^fleetgate_enroll_crl_${what}_seconds\\{scope="${scope}"\\} (\\S+)$`, 'm').exec(text)?.[1]),
      )
      assert.ok(age! >= 0 && age! < 3_600 && end! > ends, scope)
    }
    assert.match(text, /^fleetgate_enroll_crl_lag_seconds 0$/m)
  })

  test('OCSP answers are counted by kind, those that there were none of too', async () => {
    const counted = async (): Promise<number[]> => {
      const text = await (await fetch(`${fleet.probes}/metrics`)).text()
      return ocspAnswers.map((kind) =>
        Number(new RegExp(`^fleetgate_enroll_ocsp_answers_total\\{answer="${kind}"\\} (\\d+)$`, 'm').exec(text)?.[1]),
      )
    }
    const before = await counted()
    await fetch(`${base}/ocsp/MAA=`)
    assert.deepEqual(
      (await counted()).map((count, at) => count - before[at]!),
      ocspAnswers.map((kind) => Number(kind === 'malformedRequest')),
    )
    assert.equal(before[ocspAnswers.indexOf('tryLater')], 0)
  })

  test("the certificates of the gateway's own services name no list: a client may insist on fetching it", async () => {
    const certificate = readFileSync(join(fleet.dataDir, 'services', 'enroll', 'tls.crt'), 'utf8')
    const [leaf] = certificate.split(/(?<=-----END CERTIFICATE-----)/)
    assert.equal(new X509Certificate(Uint8Array.from(pemToDer(leaf!))).getExtension('2.5.29.31'), null)
  })

  test("the issuing CA's own certificate leads to the root's list, which names nobody", async () => {
    const [issuing, root] = certificates()
    const pem = readFileSync(join(fleet.dataDir, 'enroll', 'ca', 'issuing.crt'), 'utf8')
    const crl = await fetched(pathOf(crlUrlOf({ certificate: pem })))
    const list = pkijs.CertificateRevocationList.fromBER(Uint8Array.from(crl.body))
    assert.ok(await list.verify({ issuerCertificate: root! }))
    assert.equal(list.isCertificateRevoked(issuing!), false)
  })

  test('OCSP says good, revoked and unknown, by POST and GET, by SHA-1 and SHA-256', async () => {
    const device = await fleet.enrolledDevice('cam-2')
    const requests = await Promise.all(
      ['SHA-1', 'SHA-256'].map((hashAlgorithm) => ocspRequest(device, { hashAlgorithm })),
    )
    for (const request of requests) {
      for (const { headers, body } of [await post(request), await get(request)]) {
        assert.equal(headers.get('content-type'), 'application/ocsp-response')
        assert.equal(await statusIn(body, device), 0)
      }
    }
    const first = await get(requests[0]!)
    assert.ok(await isVerified(first.body))
    assert.deepEqual((await get(requests[0]!)).body, first.body, 'signed once for all who ask')
    await revoke('cam-2', 'superseded')
    for (const request of requests) assert.equal(await statusIn((await get(request)).body, device), 1)

    // Of a serial that was never given out.
    const ghost = { ...device, serial: '', certificate: await strangerOf(device) }
    const unknown = await get(await ocspRequest(ghost))
    assert.equal(await statusIn(unknown.body, ghost), 2)
    assert.equal(unknown.headers.get('cache-control'), 'no-store')
  })

  test('a device on hold has certificates on hold, until it is enabled', async () => {
    const device = await fleet.enrolledDevice('cam-7')
    const request = await ocspRequest(device)
    const change = async (verb: string): Promise<void> => {
      const { body } = await fleet.admin('POST', `/devices/cam-7/${verb}`, {})
      await published(body.feedSeq)
    }
    const path = pathOf(crlUrlOf(device))
    const reasonIn = async (file: string) => (await listed(file)).findRevoked(device.serial)?.reason
    assert.equal(await statusIn((await get(request)).body, device), 0)
    await change('disable')
    assert.equal(await statusIn((await get(request)).body, device), 1)
    assert.equal(await reasonIn(path), X509CrlReason.certificateHold)
    await change('enable')
    assert.equal(await statusIn((await get(request)).body, device), 0)
    assert.equal(await reasonIn(path), undefined)
    assert.equal(await reasonIn(path.replace('.crl', '-delta.crl')), X509CrlReason.removeFromCRL)
  })

  test('an answer with a nonce is signed for it, and not kept by anybody', async () => {
    const device = await fleet.enrolledDevice('cam-3')
    const answers = await Promise.all(
      [1, 2].map(async (octet) => get(await ocspRequest(device, { nonce: Buffer.alloc(32, octet) }))),
    )
    for (const [at, { headers, body }] of answers.entries()) {
      assert.ok(body.includes(Buffer.alloc(32, at + 1)) && (await isVerified(body)))
      assert.equal(headers.get('cache-control'), 'no-store')
      assert.equal(await statusIn(body, device), 0)
    }
  })

  test('what is no request is malformed, and another CA none of ours', async () => {
    const device = await fleet.enrolledDevice('cam-4')
    assert.equal(failureIn((await post(Buffer.from('3000', 'hex'))).body), 1)
    for (const path of ['/ocsp', '/ocsp/', '/ocsp/%', '/ocsp/!!!']) {
      const { status, body } = await fetched(path)
      assert.deepEqual([status, failureIn(body)], [200, 1], path)
    }
    const ofRoot = await ocspRequest(device, { issuer: certificates()[1]! })
    assert.equal(failureIn((await post(ofRoot)).body), 6)
    const large = await post(Buffer.alloc(maxOcspRequestBytes + 1))
    assert.deepEqual([large.status, large.body.toString().split(':')[0]], [413, 'body_too_large'])
    const text = await fetched('/ocsp', { method: 'POST', body: 'x', headers: { 'Content-Type': 'text/plain' } })
    assert.equal(text.status, 415)
    const body = await ocspRequest(device)
    for (const type of [
      'Application/OCSP-Request',
      'application/ocsp-request; charset=binary',
      'application/ocsp-requests',
    ]) {
      const { status } = await fetched('/ocsp', { method: 'POST', body, headers: { 'Content-Type': type } })
      assert.equal(status, type.endsWith('s') ? 415 : 200, type)
    }
  })

  test('caches are told how long, and need not fetch again what they have (RFC 5019 6.2, RFC 9111)', async () => {
    const device = await fleet.enrolledDevice('cam-5')
    const request = await ocspRequest(device)
    for (const ask of [(init = {}) => fetched(pathOf(crlUrlOf(device)), init), (init = {}) => get(request, init)]) {
      const { headers, body } = await ask()
      assert.equal(headers.get('cache-control'), 'max-age=300, public, no-transform, must-revalidate')
      const [modified, expires] = ['last-modified', 'expires'].map((name) => Date.parse(headers.get(name)!))
      assert.ok(modified! <= clock.now().getTime() && expires! > clock.now().getTime())
      const etag = headers.get('etag')!
      const same = await ask({ headers: { 'If-None-Match': `"other", W/${etag}` } })
      assert.deepEqual([same.status, same.body.length, same.headers.get('etag')], [304, 0, etag])
      const head = await ask({ method: 'HEAD' })
      assert.deepEqual(
        [head.status, head.body.length, head.headers.get('content-length')],
        [200, 0, String(body.length)],
      )
    }
  })

  test('a GET of OCSP is read as clients write it: escaped or not, with slashes doubled, in absolute-form', async () => {
    const device = await fleet.enrolledDevice('cam-8')
    // A nonce of all ones gives base64 with `/`, of 0xfb with `+`.
    const requests = await Promise.all(
      [0xff, 0xfb].map((octet) => ocspRequest(device, { nonce: Buffer.alloc(32, octet) })),
    )
    const base64 = requests.map((der) => der.toString('base64')).join(' ')
    assert.ok(base64.includes('//') && base64.includes('+'))
    const origin = `${base}/ocsp`
    for (const der of requests) {
      const [plain, escaped] = [der.toString('base64'), encodeURIComponent(der.toString('base64'))]
      for (const target of [
        `/ocsp/${plain}`,
        `/ocsp//${plain}`,
        `/ocsp/${escaped}`,
        `${origin}/${escaped}`,
        `/ocsp/${plain}?x`,
      ]) {
        assert.equal(await statusIn(await rawGet(target), device), 0, target)
      }
    }
  })

  test('several certificates in one request have one signed answer, which is for the asker alone; of two CAs none', async () => {
    const devices = [await fleet.enrolledDevice('cam-9'), await fleet.enrolledDevice('cam-10')]
    await revoke('cam-10')
    const [issuing, root] = certificates()
    const together = async (...of: [DeviceKeys, pkijs.Certificate][]): Promise<Buffer> => {
      const each = await Promise.all(of.map(([device, issuer]) => ocspRequest(device, { issuer })))
      const made = pkijs.OCSPRequest.fromBER(Uint8Array.from(each[0]!))
      for (const other of each.slice(1))
        made.tbsRequest.requestList.push(...pkijs.OCSPRequest.fromBER(Uint8Array.from(other)).tbsRequest.requestList)
      return Buffer.from(made.toSchema(true).toBER())
    }
    const { headers, body } = await get(await together([devices[0]!, issuing!], [devices[1]!, issuing!]))
    assert.equal(headers.get('cache-control'), 'no-store')
    assert.ok(await isVerified(body))
    assert.deepEqual([await statusIn(body, devices[0]!), await statusIn(body, devices[1]!)], [0, 1])
    const mixed = await post(await together([devices[0]!, issuing!], [devices[1]!, root!]))
    assert.equal(failureIn(mixed.body), 6)
  })

  test('a range is not cut out, and a date alone is no reason to leave a list out', async () => {
    const device = await fleet.enrolledDevice('cam-11')
    const path = pathOf(crlUrlOf(device))
    const whole = await fetched(path)
    const modified = whole.headers.get('last-modified')!
    for (const headers of [{ Range: 'bytes=0-9' }, { 'If-Modified-Since': modified }]) {
      const got = await fetched(path, { headers })
      assert.deepEqual([got.status, got.body], [200, whole.body])
    }
    const long = await fetched(`/ocsp/${'A'.repeat(9_000)}`)
    assert.equal(long.status, 431)
  })

  test('what there is not is 404, another method 405', async () => {
    const { name } = await authority()
    for (const path of [
      '/',
      `/${name}`,
      `/${name}/99.crl`,
      `/${name}/x/y`,
      '/ffffffff/all.crl',
      `/${name}/../all.crl`,
    ]) {
      assert.equal((await fetched(path)).status, 404, path)
    }
    const posted = await fetched(`/${name}/all.crl`, { method: 'POST' })
    assert.deepEqual([posted.status, posted.headers.get('allow')], [405, 'GET, HEAD'])
    assert.equal((await fetched('/ocsp', { method: 'DELETE' })).status, 405)
  })

  test('a peer that goes away inside its request, or speaks no HTTP, harms nobody', async () => {
    const { hostname, port } = new URL(base)
    for (const text of [
      'POST /ocsp HTTP/1.1\r\nHost: x\r\nContent-Type: application/ocsp-request\r\nContent-Length: 90\r\n\r\n0',
      '\x16\x03\x01',
    ]) {
      const socket = connect(Number(port), hostname)
      await new Promise<void>((resolve) => socket.write(text, () => resolve()))
      socket.destroy()
    }
    assert.equal((await fetched(`/${(await authority()).name}/all.crl`)).status, 200)
  })

  test('a start renews the responder, keeps the lists that certificates name, and goes on with greater numbers', async () => {
    const device = await fleet.enrolledDevice('cam-6')
    const { name } = await authority()
    const before = (await fleet.admin('GET', '/status')).body.revocationLists.number
    const responder = (): string => readFileSync(join(fleet.dataDir, 'services', 'status', 'ocsp.crt'), 'utf8')
    const former = responder()
    await fleet.close()
    clock.advance(5 * 24 * hour)
    fleet.config.enroll.status.shards = 1
    await fleet.open()
    base = fleet.endpoints.status!
    assert.notEqual(responder(), former)
    while ((await fetched(`/${name}/1.crl`)).status === 503) await delay(5)
    assert.ok((await fleet.admin('GET', '/status')).body.revocationLists.number > before)
    assert.equal((await fetched(`/${name}/1.crl`)).status, 200)
    assert.equal(failureIn((await get(await ocspRequest(device))).body), 0)
  })

  test("without the root's key its list stays as it is", async () => {
    const files = ['root.crl', 'root.key'].map((name) => join(fleet.dataDir, 'enroll', 'ca', name))
    const list = readFileSync(files[0]!)
    await fleet.close()
    rmSync(files[1]!)
    clock.advance(300 * 24 * hour)
    await fleet.open()
    assert.deepEqual(readFileSync(files[0]!), list)
    await fleet.close()
    rmSync(files[0]!)
    await fleet.open()
    assert.equal(existsSync(files[0]!), false)
  })

  /** As the target is written; `fetch` would write it anew. */
  async function rawGet(path: string): Promise<Buffer> {
    const { hostname, port } = new URL(base)
    const asked = request({ host: hostname, port, path }).end()
    const [response] = await once(asked, 'response')
    return buffer(response)
  }

  async function authority(): Promise<{ name: string }> {
    const { items } = (await fleet.admin('GET', '/certificates?limit=100')).body
    const { distributionPoint } = items.find((item: object) => 'distributionPoint' in item)
    return { name: distributionPoint.split('/')[0] }
  }
})

test('where answers cannot be signed, clients are told to try later, and the log why', async () => {
  const lines: string[] = []
  const log = { error: ({ event }: { event: string }) => lines.push(event) } as unknown as Log
  const answer = (): Promise<never> => Promise.reject(new FleetError('key_unavailable', 'away'))
  await using port = await createStatus({
    settings: { listen: '127.0.0.1:0', url: 'http://s.test/under', maxAgeMs: 0, maxConnections: 10 },
    authorities: new Map(),
    ocsp: { answer } as unknown as OcspResponder,
    answered: (kind) => lines.push(kind),
    readers: new ListReaders(),
    clock: clock.now,
    log,
  })
  // The path of the URL may have been taken away by a proxy, or not.
  for (const path of ['/ocsp/MAA=', '/under/ocsp/MAA=']) {
    const got = await fetch(`http://127.0.0.1:${port.address.port}${path}`)
    const body = Buffer.from(await got.arrayBuffer())
    assert.deepEqual([got.status, got.headers.get('cache-control'), body], [200, 'no-store', ocspFailure('tryLater')])
  }
  assert.deepEqual(lines, ['ocsp.failed', 'tryLater', 'ocsp.failed', 'tryLater'])
})

test('a peer that asks for a list and does not read it is cut', async () => {
  const list = {
    number: 1,
    thisUpdate: new Date(),
    nextUpdate: new Date(),
    parts: [Buffer.alloc(16_777_216)],
    bytes: 1,
  }
  await using port = await createStatus({
    settings: { listen: '127.0.0.1:0', url: 'http://s.test', maxAgeMs: 0, maxConnections: 10 },
    authorities: new Map([['ca', { certificate: Buffer.of(), find: () => list, isLoaded: true }]]),
    ocsp: {} as OcspResponder,
    answered: () => {},
    readers: new ListReaders({ heldBytes: 0, bytesPerSecond: 1_000, graceMs: 100 }),
    clock: clock.now,
    log: {} as Log,
  })
  const socket = connect(port.address.port, '127.0.0.1')
  socket.write('GET /ca/all.crl HTTP/1.1\r\nHost: x\r\n\r\n')
  await once(socket, 'readable')
  await delay(200)
  let read = 0
  socket.on('data', (chunk: Buffer) => {
    read += chunk.length
  })
  await once(socket, 'close')
  assert.ok(read < list.parts[0]!.length, `${read} octets`)
})

/** The same certificate with another serial; nobody signed it. */
async function strangerOf({ certificate, serial }: DeviceKeys): Promise<string> {
  const der = pemToDer(certificate)
  der[der.indexOf(Buffer.from(serial, 'hex')) + 3]! ^= 1
  return der.toString('base64')
}
