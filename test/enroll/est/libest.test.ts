import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { after, before, suite, test } from 'node:test'
import { connect, type TLSSocket } from 'node:tls'
import { parseCertificate } from '../../../pki/certificate.ts'
import { parseCertsOnly } from '../../../pki/cms.ts'
import { csrWithChallenge } from '../../harness/csr-vectors.ts'
import { basic, type DeviceKeys, EnrollHarness, testConfiguration } from '../../harness/fleet.ts'

/** The first 1024 octets have to hold a line end, or libest reads nothing. */
const firstLine = 1024

/** What `estclient` of libest 3.2.0p puts on the wire, and what it makes of the answer: names compared byte by byte. */
class Estclient {
  readonly #fleet: EnrollHarness
  constructor(fleet: EnrollHarness) {
    this.#fleet = fleet
  }

  /** TLS 1.2 at most, a connection for each request. */
  async connect(device?: DeviceKeys): Promise<TLSSocket> {
    const { port } = new URL(this.#fleet.endpoints.est)
    const credential = device && { key: device.key, cert: device.certificate }
    const socket = connect({
      host: '127.0.0.1',
      port: Number(port),
      ca: this.#fleet.root,
      maxVersion: 'TLSv1.2',
      ...credential,
    })
    await once(socket, 'secureConnect')
    return socket
  }

  async exchange(socket: TLSSocket, request: { path: string; csr?: Buffer; authorization?: string }) {
    const { path, csr, authorization } = request
    const { port } = new URL(this.#fleet.endpoints.est)
    const body = csr && `${csr.toString('base64').replaceAll(/.{64}(?=.)/g, '$&\n')}\n`
    const head = [
      `${body === undefined ? 'GET' : 'POST'} /.well-known/est/${path} HTTP/1.1`,
      'User-Agent: libest 3.2.0p',
      'Connection: close',
      `Host: 127.0.0.1:${port}`,
      'Accept: */*',
      ...(body === undefined ? [] : ['Content-Type: application/pkcs10', `Content-Length: ${body.length}`]),
      ...(authorization === undefined ? [] : [`Authorization: ${authorization}`]),
    ]
    let text = ''
    socket.setEncoding('latin1').on('data', (chunk: string) => {
      text += chunk
    })
    socket.write(`${head.join('\r\n')}\r\n\r\n${body ?? ''}`)
    await once(socket, 'close') // it reads to the end of the connection
    const end = text.indexOf('\r\n\r\n')
    const [lines, payload] = [text.slice(0, end), text.slice(end + 4)]
    const [status = '', ...headers] = lines.split('\r\n')
    assert.ok(headers.length <= 16, `${headers.length} headers`)
    const values = new Map(
      headers.map((line) => [line.slice(0, line.indexOf(': ')), line.slice(line.indexOf(': ') + 2)]),
    )
    assert.equal(values.get('Content-Length'), String(payload.length))
    return { status: Number(status.split(' ')[1]), values, payload }
  }

  /** Base64 as its decoder takes it. */
  decode(payload: string): Buffer[] {
    assert.ok(payload.endsWith('\n') && payload.indexOf('\n') < firstLine)
    return parseCertsOnly(Buffer.from(payload, 'base64'))
  }
}

suite('requests of libest, replayed byte for byte', () => {
  let fleet: EnrollHarness
  let client: Estclient
  before(async () => {
    fleet = await EnrollHarness.start({
      config: testConfiguration({
        profiles: { camera: {}, gate: { channelBinding: 'required' }, meter: { serverKeygen: 'clear' } },
        labels: { gates: { profile: 'gate' } },
      }),
    })
    client = new Estclient(fleet)
  })
  after(() => fleet[Symbol.asyncDispose]())

  const vector = new URL('../../vectors/est/libest-rsa-4096.json', import.meta.url)
  const rsaCsr = Buffer.from(JSON.parse(readFileSync(vector, 'utf8')).der, 'base64')

  test('cacerts comes in lines and ends the connection', async () => {
    const { status, values, payload } = await client.exchange(await client.connect(), { path: 'cacerts' })
    assert.deepEqual([status, values.get('Content-Type')], [200, 'application/pkcs7-mime'])
    assert.ok(payload.length > firstLine)
    assert.equal(client.decode(payload).length, 2)
  })

  test('enrolls an RSA-4096 key: 401 with the challenge first, then the password over a new connection', async () => {
    const token = await fleet.token('libest-1')
    const first = await client.exchange(await client.connect(), { path: 'simpleenroll', csr: rsaCsr })
    assert.equal(first.status, 401)
    assert.match(first.values.get('WWW-Authenticate')!, /^Basic realm="[^"]+"$/)
    const authorization = basic('libest-1', token)
    const { status, values, payload } = await client.exchange(await client.connect(), {
      path: 'simpleenroll',
      csr: rsaCsr,
      authorization,
    })
    assert.deepEqual([status, values.get('Content-Type')], [200, 'application/pkcs7-mime; smime-type=certs-only'])
    const [leaf, ...others] = client.decode(payload).map(parseCertificate)
    assert.deepEqual([leaf!.subjectAltName.uris, others], [['urn:fleetgate:device:libest-1'], []])
  })

  test('a wrong password is 401 with the challenge again', async () => {
    const request = { path: 'simpleenroll', csr: rsaCsr, authorization: basic('libest-1', 'wrong') }
    const { status, values } = await client.exchange(await client.connect(), request)
    assert.deepEqual([status, values.get('WWW-Authenticate')], [401, 'Basic realm="fleetgate"'])
  })

  test('renews with the leaf alone over mutual TLS', async () => {
    const device = await fleet.enrolledDevice('libest-2')
    const csr = await fleet.renewalCsr(device)
    const { status, payload } = await client.exchange(await client.connect(device), { path: 'simplereenroll', csr })
    assert.equal(status, 200)
    assert.notEqual(parseCertificate(client.decode(payload)[0]!).serial, device.serial)
  })

  test('binds its request to the connection when csrattrs asks for it, and under a label', async () => {
    const attributes = await client.exchange(await client.connect(), { path: 'gates/csrattrs' })
    assert.equal(attributes.status, 200)
    const der = Buffer.from(attributes.payload, 'base64')
    // It looks for the OID of challengePassword and reads no more than 1024 octets.
    assert.ok(der.length <= 1024 && der.includes(Buffer.from('06092a864886f70d010907', 'hex')))
    const authorization = basic('gate-1', await fleet.token('gate-1', { profile: 'gate' }))
    const socket = await client.connect()
    const csr = csrWithChallenge('gate-1', socket.getFinished()!.toString('base64'))
    const { status } = await client.exchange(socket, { path: 'gates/simpleenroll', csr, authorization })
    assert.equal(status, 200)
  })

  test('an answer of serverkeygen has the parts it looks for, and an RSA key, the only kind it takes', async () => {
    const device = await fleet.enrolledDevice('meter-1', { profile: 'meter', keyType: 'RSA-2048' })
    const csr = await fleet.renewalCsr(device)
    const { status, values, payload } = await client.exchange(await client.connect(device), {
      path: 'serverkeygen',
      csr,
    })
    assert.equal(status, 200)
    const boundary = /^multipart\/mixed; boundary=([^=]+)$/.exec(values.get('Content-Type')!)![1]!
    const [, key = '', certificate = ''] = payload.split(`--${boundary}`)
    assert.match(key, /\r\nContent-Type: application\/pkcs8\r\nContent-Transfer-Encoding: base64\r\n\r\n/)
    assert.match(certificate, /smime-type=certs-only\r\nContent-Transfer-Encoding: base64\r\n\r\n/)
    assert.ok(Buffer.from(key.split('\r\n\r\n')[1]!, 'base64').length > 256)
  })
})
