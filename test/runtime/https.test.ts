import assert from 'node:assert/strict'
import { generateKeyPairSync, type KeyObject, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect as connectTcp, createServer as createTcpServer, type Socket } from 'node:net'
import { test } from 'node:test'
import { setImmediate, setTimeout } from 'node:timers/promises'
import { connect as connectTls, type TLSSocket } from 'node:tls'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { type ProblemCode, problems } from '../../contract/problems.ts'
import { issue, newSerialNumber, parseCertificate, prepare } from '../../pki/certificate.ts'
import { signerOf } from '../../pki/keystore.ts'
import { buildName } from '../../pki/names.ts'
import { operatorProfile, rootProfile } from '../../pki/profile.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import {
  createEdge,
  type Edge,
  type EdgeAnswer,
  type EdgeCredential,
  type EdgeRequest,
  reachableHost,
} from '../../runtime/https.ts'
import { createLog } from '../../runtime/log.ts'

const day = 86_400_000

type Party = EdgeCredential & { authority: string }

/** A key, a certificate for server and client, and the authority that was made for it alone. */
async function createParty(commonName: string): Promise<Party> {
  const validity = { notBefore: new Date(Date.now() - day), notAfter: new Date(Date.now() + day) }
  const [authority, own] = [0, 1].map(() => generateKeyPairSync('ec', { namedCurve: 'P-256' }))
  const spkiOf = (key: KeyObject): Buffer => key.export({ format: 'der', type: 'spki' })
  const signer = signerOf(authority!.privateKey)
  const common = { subjectAltName: {}, ...validity }
  const root = await issue(
    prepare({
      profile: rootProfile,
      issuer: { certificate: 'self', signer },
      serial: newSerialNumber(randomBytes),
      subject: buildName({ commonName: `authority of ${commonName}` }),
      publicKeySpki: signer.publicKeySpki,
      ...common,
    }),
  )
  const leaf = await issue(
    prepare({
      profile: operatorProfile,
      issuer: { certificate: parseCertificate(root.der), signer },
      serial: newSerialNumber(randomBytes),
      subject: buildName({ commonName }),
      publicKeySpki: spkiOf(own!.publicKey),
      ...common,
    }),
  )
  const key = own!.privateKey.export({ format: 'pem', type: 'pkcs8' }).toString()
  return { key, cert: leaf.pem, authority: root.pem }
}

const credential = await createParty('edge')
const client = await createParty('client')

type Options = Partial<Parameters<typeof createEdge>[0]>

async function startEdge(options: Options = {}): Promise<Edge & { seen: EdgeRequest[] }> {
  const seen: EdgeRequest[] = []
  const edge = await createEdge({
    listen: '127.0.0.1:0',
    credential,
    clientAuthorities: () => [client.authority],
    maxBodyBytes: 1_000,
    maxConnections: 100,
    maxConnectionsPerAddress: 100,
    requestTimeoutMs: 5_000,
    handshakeTimeoutMs: 5_000,
    log: createLog('edge', 'silent'),
    admit: async () => {},
    handle: async (request) => {
      seen.push(request)
      return {
        status: 200,
        headers: { 'Content-Type': 'text/plain', 'X-eXact-CASE': 'kept' },
        body: `${request.body.length} octets\n`,
      }
    },
    drop: () => '0123456789ab',
    fail: (error): EdgeAnswer =>
      isFleetError(error) ? { status: problems[error.code].status, body: error.message } : { status: 500 },
    ...options,
  })
  return Object.assign(edge, { seen })
}

async function dial(edge: Edge, options: object = {}): Promise<TLSSocket> {
  const socket = connectTls({ port: edge.address.port, host: '127.0.0.1', rejectUnauthorized: false, ...options })
  socket.on('error', () => undefined)
  await once(socket, 'secureConnect')
  return socket
}

const collect = (() => {
  setFlagsFromString('--expose-gc')
  return runInNewContext('gc') as () => void
})()

/** By what can still be reached. */
function heldBytes(): number {
  collect()
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return heapUsed + arrayBuffers
}

/** Everything until the peer closes. */
async function readAll(socket: Socket | TLSSocket): Promise<string> {
  let text = ''
  socket.on('data', (chunk: Buffer) => {
    text += chunk.toString('latin1')
  })
  socket.resume()
  if (!socket.closed) await new Promise((resolve) => socket.once('close', resolve))
  return text
}

const get = 'GET /x?y=z HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n'

test('an answer keeps the case of its header names and carries a Content-Length', async () => {
  await using edge = await startEdge()
  const socket = await dial(edge)
  socket.write(get)
  const answer = await readAll(socket)
  assert.match(answer, /^HTTP\/1\.1 200 OK\r\n/)
  assert.match(answer, /\r\nContent-Type: text\/plain\r\n/)
  assert.match(answer, /\r\nX-eXact-CASE: kept\r\n/)
  assert.match(answer, /\r\nContent-Length: 9\r\n/)
  assert.match(answer, /\r\n\r\n0 octets\n$/)
  assert.doesNotMatch(answer, /transfer-encoding/i)
})

test('a body of octets is sent as it is, and overwritten once it is sent', async () => {
  const body = Buffer.from('a private key')
  await using edge = await startEdge({ handle: async () => ({ status: 200, body }) })
  const socket = await dial(edge)
  socket.write(get)
  assert.match(await readAll(socket), /\r\nContent-Length: 13\r\n[\s\S]*\r\n\r\na private key$/)
  while (body.some((octet) => octet !== 0)) await setImmediate()
})

test('an answer of 10 kB is one TLS write: strongSwan reads no more than two records', async () => {
  await using edge = await startEdge({ handle: async () => ({ status: 200, body: 'a'.repeat(10_000) }) })
  const socket = await dial(edge, { maxVersion: 'TLSv1.2' })
  const pieces: number[] = []
  socket.on('data', (chunk: Buffer) => pieces.push(chunk.length))
  socket.write(get)
  await once(socket, 'close')
  assert.equal(pieces.length, 1)
})

test('the handler sees method, path without query, headers, body and address', async () => {
  await using edge = await startEdge()
  const socket = await dial(edge)
  socket.write('POST /p?q=1 HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc')
  await readAll(socket)
  const [seen] = edge.seen
  assert.deepEqual(
    [seen?.method, seen?.path, seen?.headers['x-one'], seen?.body.toString(), seen?.remoteAddress],
    ['POST', '/p', '1', 'abc', '127.0.0.1'],
  )
  assert.match(seen?.id ?? '', /^[0-9a-f]{16}$/)
})

test('a client without a certificate is served, and the handler sees that it has none', async () => {
  await using edge = await startEdge()
  const socket = await dial(edge)
  socket.write(get)
  await readAll(socket)
  assert.equal(edge.seen[0]?.certificate, undefined)
  assert.notEqual(edge.seen[0]?.certificateFault, undefined)
})

test('the handler sees a client certificate and whether its chain is fine, in TLS 1.2 and 1.3, resumed sessions too', async () => {
  await using edge = await startEdge()
  const stranger = await createParty('stranger')
  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    const first = connectTls({
      port: edge.address.port,
      host: '127.0.0.1',
      rejectUnauthorized: false,
      ...client,
      maxVersion: version,
      minVersion: version,
    })
    const sessions: Buffer[] = []
    first.on('session', (session) => sessions.push(session))
    first.write(get)
    await readAll(first)
    const again = await dial(edge, { ...client, maxVersion: version, minVersion: version, session: sessions.at(-1) })
    assert.equal(again.isSessionReused(), true)
    again.write(get)
    await readAll(again)
    const other = await dial(edge, { ...stranger, maxVersion: version })
    other.write(get)
    await readAll(other)
    const [full, resumed, foreign] = edge.seen.splice(0)
    assert.equal(full?.certificateFault, undefined)
    assert.ok(full?.certificate)
    assert.deepEqual(resumed?.certificate, full.certificate)
    assert.equal(resumed?.certificateFault, undefined)
    assert.match(foreign?.certificateFault ?? '', /UNABLE_TO/)
  }
})

test('TLS 1.1 is refused', async () => {
  await using edge = await startEdge()
  const socket = connectTls({
    port: edge.address.port,
    host: '127.0.0.1',
    rejectUnauthorized: false,
    minVersion: 'TLSv1.1',
    maxVersion: 'TLSv1.1',
    ciphers: 'DEFAULT@SECLEVEL=0',
  })
  const [error] = await once(socket, 'error')
  assert.match((error as NodeJS.ErrnoException).code ?? '', /^ERR_SSL/)
})

test('suites without encryption, without authentication, of export strength and of old ciphers are refused', async () => {
  await using edge = await startEdge()
  // RSA with NULL, RSA_EXPORT with RC4, RC4, DES, 3DES, and DH_anon with AES: no client library here offers them any more.
  const suites = Buffer.from('0002000300050009000a0034', 'hex')
  const body = Buffer.concat([
    Buffer.of(3, 3),
    randomBytes(32),
    Buffer.of(0, 0, suites.length),
    suites,
    Buffer.of(1, 0),
  ])
  const hello = Buffer.concat([Buffer.of(1, 0, 0, body.length), body])
  const socket = connectTcp(edge.address.port, '127.0.0.1')
  socket.write(Buffer.concat([Buffer.of(22, 3, 1, 0, hello.length), hello]))
  const [alert] = (await once(socket, 'data')) as [Buffer]
  socket.destroy()
  // RFC 5246 7.2: alert, fatal, handshake_failure
  assert.deepEqual([alert[0], alert[5], alert[6]], [21, 2, 40])
})

test('a connection is kept for the next request', async () => {
  await using edge = await startEdge()
  const socket = await dial(edge)
  const text = readAll(socket)
  socket.write('GET /1 HTTP/1.1\r\nHost: h\r\n\r\n')
  await once(socket, 'data')
  socket.write('GET /2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n')
  assert.equal((await text).match(/HTTP\/1\.1 200 OK/g)?.length, 2)
  assert.deepEqual(
    edge.seen.map((request) => request.path),
    ['/1', '/2'],
  )
})

test('HEAD is answered with the length and without the body', async () => {
  await using edge = await startEdge()
  const socket = await dial(edge)
  socket.write('HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n')
  assert.match(await readAll(socket), /\r\nContent-Length: 9\r\n[\s\S]*\r\n\r\n$/)
})

test('a body that is declared too large is refused with a readable 413, and the handler is not asked', async () => {
  await using edge = await startEdge()
  const socket = await dial(edge)
  socket.write(`POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n${'a'.repeat(1_001)}`)
  const answer = await readAll(socket)
  assert.match(answer, /^HTTP\/1\.1 413 /)
  assert.match(answer, /\r\nConnection: close\r\n/)
  assert.match(answer, /larger than 1000 bytes$/)
  assert.equal(edge.seen.length, 0)
})

test('a body of exactly the limit is accepted', async () => {
  await using edge = await startEdge()
  const socket = await dial(edge)
  socket.write(`POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n${'a'.repeat(1_000)}`)
  assert.match(await readAll(socket), /1000 octets/)
})

for (const chunked of [false, true]) {
  test(`a peer that first sends all of a far too large body (${chunked ? 'streamed' : 'declared'}) can still read the 413`, async () => {
    await using edge = await startEdge()
    const socket = await dial(edge)
    const body = Buffer.alloc(700_000, 97)
    // Nothing is read before everything is written: a reset that overtakes the answer would lose it.
    socket.pause()
    if (chunked) {
      socket.write('POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n')
      for (let at = 0; at < 700_000; at += 70_000) {
        socket.write('11170\r\n')
        socket.write(body.subarray(at, at + 70_000))
        socket.write('\r\n')
      }
    } else {
      socket.write(`POST / HTTP/1.1\r\nHost: h\r\nContent-Length: ${body.length}\r\n\r\n`)
      socket.write(body)
    }
    await new Promise<void>((resolve) => socket.write(chunked ? '0\r\n\r\n' : '', () => resolve()))
    assert.match(await readAll(socket), /^HTTP\/1\.1 413 [\s\S]*larger than 1000 bytes$/)
    assert.equal(edge.seen.length, 0)
  })
}

test('a peer that goes on sending after its 413 is closed', async () => {
  await using edge = await startEdge()
  const socket = await dial(edge)
  socket.write('POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n')
  const more = (): void => {
    if (!socket.destroyed) socket.write(Buffer.alloc(65_536), () => setImmediate(more))
  }
  more()
  assert.match(await readAll(socket), /^HTTP\/1\.1 413 /)
})

test('a client that waits with its body is asked for it, or hears at once what can be refused without (RFC 9110 10.1.1)', async () => {
  await using edge = await startEdge({
    admit: async ({ path }) => {
      if (path !== '/x') throw new FleetError('unauthenticated', 'who are you')
    },
  })
  const head = (path: string, length: number): string =>
    `POST ${path} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: ${length}\r\n\r\n`
  for (const [path, length, status] of [
    ['/x', 5_000, 413],
    ['/other', 3, 401],
  ] as const) {
    const socket = await dial(edge)
    socket.write(head(path, length))
    const [answer] = (await once(socket, 'data')) as [Buffer]
    socket.destroy()
    assert.match(answer.toString(), new RegExp(`^HTTP/1\\.1 ${status} .*\\r\\nConnection: close\\r\\n`, 's'))
  }
  const socket = await dial(edge)
  socket.write(head('/x', 3))
  assert.match(String(await once(socket, 'data')), /^HTTP\/1\.1 100 Continue\r\n\r\n$/)
  socket.write(`abc${get}`)
  assert.match(await readAll(socket), /^HTTP\/1\.1 200 [\s\S]*\r\n\r\n3 octets\nHTTP\/1\.1 200 /)
  // RFC 9110 10.1.1: HTTP/1.0 does not know the word.
  const old = await dial(edge)
  old.write(head('/other', 3).replace('1.1', '1.0'))
  old.write('abc')
  assert.match(await readAll(old), /^HTTP\/1\.1 200 [\s\S]*\r\n\r\n3 octets\n$/)
})

test('a client that speaks HTTP/1.0 alone, and says so in its handshake, is served and closed', async () => {
  await using edge = await startEdge()
  const old = await dial(edge, { ALPNProtocols: ['http/1.0'] })
  assert.equal(old.alpnProtocol, 'http/1.0')
  old.write('GET /x HTTP/1.0\r\n\r\n')
  assert.match(await readAll(old), /^HTTP\/1\.1 200 [\s\S]*\r\nConnection: close\r\n\r\n0 octets\n$/)
  await assert.rejects(dial(edge, { ALPNProtocols: ['h2'] }), { code: 'ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL' })
})

test('what the handler throws is rendered by fail, once, with the same request id', async () => {
  const failed: { error: unknown; id: string; path: string }[] = []
  let id = ''
  await using edge = await startEdge({
    handle: async (request) => {
      id = request.id
      throw new FleetError('not_found', 'nothing here')
    },
    fail: (error, request) => {
      failed.push({ error, ...request })
      return { status: 404, body: 'gone' }
    },
  })
  const socket = await dial(edge)
  socket.write(get)
  assert.match(await readAll(socket), /^HTTP\/1\.1 404 [\s\S]*gone$/)
  assert.deepEqual(
    failed.map((one) => [one.id, one.path, isFleetError(one.error, 'not_found')]),
    [[id, '/x', true]],
  )
})

test('an answer that cannot be sent closes its connection and leaves the server up', async () => {
  await using edge = await startEdge({
    handle: async (request) =>
      request.path === '/bad' ? { status: 200, headers: { 'X-Bad': 'a\nb' } } : { status: 200, body: 'fine' },
  })
  const socket = await dial(edge)
  socket.write('GET /bad HTTP/1.1\r\nHost: h\r\n\r\n')
  assert.equal(await readAll(socket), '')
  const next = await dial(edge)
  next.write(get)
  assert.match(await readAll(next), /fine$/)
})

test('a request that does not become complete is answered 408 and closed, also when the peer keeps its half open', async () => {
  await using edge = await startEdge({ requestTimeoutMs: 150 })
  const socket = await dial(edge, { allowHalfOpen: true })
  socket.write('POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc')
  const answer: string[] = []
  socket.on('data', (chunk: Buffer) => answer.push(chunk.toString()))
  await once(socket, 'end')
  assert.match(answer.join(''), /^HTTP\/1\.1 408 Request Timeout\r\n/)
  assert.equal(edge.seen.length, 0)
  // Still writable on this side; the server gives the socket up by itself.
  const poke = setInterval(() => socket.write('x'), 50)
  await new Promise((resolve) => socket.once('close', resolve))
  clearInterval(poke)
})

test('a peer that does not read its answer is closed, and its place is free', async () => {
  const body = 'a'.repeat(16_000_000)
  const handle = async () => ({ status: 200, body })
  await using edge = await startEdge({ requestTimeoutMs: 200, maxConnectionsPerAddress: 1, handle })
  const deaf = await dial(edge)
  deaf.pause()
  deaf.write(get)
  let next: TLSSocket | undefined
  while (next === undefined) next = await dial(edge).catch(() => setTimeout(20))
  next.destroy()
  assert.ok((await readAll(deaf)).length < body.length)
})

test('a body that comes an octet at a time takes no more memory than its octets', async () => {
  const chunks = 60_000
  const bodies: Buffer[] = []
  const handle = async ({ body }: EdgeRequest) => {
    bodies.push(body)
    return { status: 200 }
  }
  await using edge = await startEdge({ maxBodyBytes: 65_536, handle })
  const slow = await dial(edge)
  const before = heldBytes()
  slow.write('POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n')
  await new Promise((resolve) => slow.write('1\r\nA\r\n'.repeat(chunks), resolve))
  for (let turn = 0; turn < 100; turn++) await setImmediate()
  assert.ok(heldBytes() - before < 4_000_000)
  slow.write('0\r\n\r\n')
  assert.match(await readAll(slow), /200 OK/)
  assert.deepEqual(bodies, [Buffer.alloc(chunks, 'A')])
})

test('a handshake is the only one of its connection', async () => {
  await using edge = await startEdge()
  const socket = await dial(edge, { maxVersion: 'TLSv1.2' })
  const refused = new Promise<NodeJS.ErrnoException>((resolve) => socket.once('error', resolve))
  socket.renegotiate({}, (error) => assert.ok(error))
  assert.equal((await refused).code, 'ERR_SSL_NO_RENEGOTIATION')
})

test('headers that do not become complete are answered 408', async () => {
  await using edge = await startEdge({ requestTimeoutMs: 150 })
  const socket = await dial(edge)
  socket.write('GET / HTTP/1.1\r\nHost: h\r\nX-Slow: ')
  assert.match(await readAll(socket), /^HTTP\/1\.1 408 /)
})

test('headers of more than 8 kB are answered 431', async () => {
  await using edge = await startEdge()
  const socket = await dial(edge)
  socket.write(`GET / HTTP/1.1\r\nHost: h\r\nX-Long: ${'a'.repeat(9_000)}\r\n\r\n`)
  const answer = await readAll(socket)
  assert.match(
    answer,
    /^HTTP\/1\.1 431 Request Header Fields Too Large\r\n[\s\S]*\r\nContent-Length: 38\r\nConnection: close\r\n/,
  )
  assert.match(answer, /\r\n\r\nthe headers are longer than 8192 bytes$/)
  assert.equal(edge.seen.length, 0)
})

/** Several to one edge, over resumed sessions. @returns of each the statuses of what came back */
async function statusesOf(edge: Edge, requests: string[]): Promise<number[][]> {
  let session: Buffer | undefined
  const answers: number[][] = []
  for (const bytes of requests) {
    const socket = await dial(edge, { session })
    socket.once('session', (ticket: Buffer) => {
      session = ticket
    })
    socket.write(bytes, 'latin1')
    answers.push([...(await readAll(socket)).matchAll(/^HTTP\/1\.1 (\d{3}) /gm)].map(([, status]) => Number(status)))
  }
  return answers
}

test('what ends in two places, or where nobody else would end it, is answered 400 and closed, with all that follows', async () => {
  const post = (headers: string, body: string): string => `POST / HTTP/1.1\r\nHost: h\r\n${headers}\r\n\r\n${body}`
  const chunked = 'Transfer-Encoding: chunked'
  const hostile = [
    '\x00\x01\x02\x03garbage\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n',
    'GET / HTTP/1.1\nHost: h\n\n',
    'GET / HTTP/1.1\rHost: h\r\r',
    'GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n', // folded
    'GET / HTTP/1.1\r\n Host: h\r\nHost: h\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n',
    'GET / HTTP/1.2\r\nHost: h\r\n\r\n',
    'GET\t/\tHTTP/1.1\r\nHost: h\r\n\r\n',
    'GET /caf\xe9 HTTP/1.1\r\nHost: h\r\n\r\n',
    'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
    'CONNECT localhost:22 HTTP/1.1\r\nHost: h\r\n\r\n',
    post('Content-Length: 1\r\nContent-Length: 2', 'ab'),
    post('Content-Length: 1\r\nContent-Length: 1', 'a'),
    post('Content-Length: 1, 1', 'a'),
    post('Content-Length: +1', 'a'),
    post('Content-Length: 0x1', 'a'),
    post('Content-Length: 99999999999999999999999', 'a'),
    post(`Content-Length: 5\r\n${chunked}`, '0\r\n\r\n'),
    post(`${chunked}\r\nContent-Length: 5`, '0\r\n\r\n'),
    post(`${chunked}\r\n${chunked}`, '0\r\n\r\n'),
    post('Transfer-Encoding: xchunked', '0\r\n\r\n'),
    post('Transfer-Encoding: chunked, identity', '0\r\n\r\n'),
    post('Transfer-Encoding : chunked', '0\r\n\r\n'),
    post('Transfer-Encoding:\x0bchunked', '0\r\n\r\n'),
    post(chunked, '1;\na\r\n0\r\n\r\n'),
    post(chunked, '1 \r\na\r\n0\r\n\r\n'),
    post(chunked, '-1\r\na\r\n0\r\n\r\n'),
    post(chunked, '10000000000000001\r\na\r\n0\r\n\r\n'),
    post(chunked, '1\r\naXX0\r\n\r\n'),
    `POST / HTTP/1.0\r\nHost: h\r\n${chunked}\r\n\r\n0\r\n\r\n`,
  ]
  await using edge = await startEdge()
  const answers = await statusesOf(
    edge,
    hostile.map((bytes) => bytes + get),
  )
  for (const [at, statuses] of answers.entries()) assert.deepEqual(statuses, [400], JSON.stringify(hostile[at]))
  // What is asked inside a body that was read to a wrong end is all that could have been seen.
  assert.deepEqual(
    edge.seen.filter(({ path }) => path === '/x'),
    [],
  )
})

test('a request that two readers could take for two is refused before its handler, and the refusal is recorded', async () => {
  const end = 'Connection: close\r\n\r\n'
  const unclear: [string, ProblemCode][] = [
    [`GET / HTTP/1.1\r\nHost: h\r\nHost: g\r\n${end}`, 'request_malformed'],
    [`GET / HTTP/1.1\r\n${end}`, 'request_malformed'],
    [`GET / HTTP/1.1\r\nHost: h/evil\r\n${end}`, 'request_malformed'],
    [`GET / HTTP/1.1\r\nHost: user@h\r\n${end}`, 'request_malformed'],
    [
      `GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Basic YTph\r\nAuthorization: Basic Yjpi\r\n${end}`,
      'request_malformed',
    ],
    [`GET / HTTP/1.1\r\nHost: h\r\nContent-Type: a/b\r\nContent-Type: c/d\r\n${end}`, 'request_malformed'],
    [`POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n${end}0\r\n\r\n`, 'request_malformed'],
    [`GET https://user@edge/ HTTP/1.1\r\nHost: edge\r\n${end}`, 'request_malformed'],
    [`GET https:///x HTTP/1.1\r\nHost: edge\r\n${end}`, 'request_malformed'],
    [`GET https://other.example/ HTTP/1.1\r\nHost: edge\r\n${end}`, 'misdirected'],
    [`GET https://192.0.2.1/ HTTP/1.1\r\nHost: edge\r\n${end}`, 'misdirected'],
    [`GET http://edge/ HTTP/1.1\r\nHost: edge\r\n${end}`, 'misdirected'],
  ]
  const recorded: unknown[] = []
  await using edge = await startEdge({
    fail(error) {
      const code = isFleetError(error) ? error.code : 'internal'
      recorded.push(code)
      return { status: problems[code].status }
    },
  })
  const answers = await statusesOf(
    edge,
    unclear.map(([bytes]) => bytes),
  )
  assert.deepEqual(
    answers.flat(),
    unclear.map(([, code]) => problems[code].status),
  )
  assert.deepEqual([recorded, edge.seen], [unclear.map(([, code]) => code), []])
})

test('a connection that asks on before it has its answers is closed, and what it brought is not kept', async () => {
  let asked = 0
  const dropped: unknown[] = []
  await using edge = await startEdge({
    handle: () => {
      asked++
      return new Promise(() => undefined)
    },
    drop(cause) {
      dropped.push(cause)
      return '0123456789ab'
    },
  })
  const socket = await dial(edge)
  socket.write('POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc'.repeat(100))
  assert.equal(await readAll(socket), '')
  assert.deepEqual([asked, dropped], [8, ['too_many_requests']])
})

test('what is no request is answered after the requests before it, and a peer that asked nothing is only closed', async () => {
  const failed: unknown[] = []
  const dropped: unknown[] = []
  let finish!: () => void
  const finished = new Promise<void>((resolve) => {
    finish = resolve
  })
  await using edge = await startEdge({
    requestTimeoutMs: 150,
    handle: async () => {
      await finished
      return { status: 200, body: 'first' }
    },
    fail: (error, { path, method, remoteAddress }) => {
      failed.push([isFleetError(error) && error.code, path, method, remoteAddress])
      return { status: 400, body: 'second' }
    },
    drop(cause) {
      dropped.push(cause)
      return '0123456789ab'
    },
  })
  const socket = await dial(edge)
  const silent = await dial(edge)
  socket.write('GET /x HTTP/1.1\r\nHost: h\r\n\r\nnonsense\r\n\r\nnonsense')
  assert.equal(await readAll(silent), '')
  finish()
  assert.match(await readAll(socket), /^HTTP\/1\.1 200 [\s\S]*first\r?\n?HTTP\/1\.1 400 [\s\S]*second$/)
  assert.deepEqual([failed, dropped], [[['request_malformed', '', '', '127.0.0.1']], ['request_timeout']])
})

test('a target in absolute-form is that of its path, whatever Host says (RFC 9112 3.2.2); so is one after an expectation that nobody knows', async () => {
  await using edge = await startEdge()
  const asked = [
    'GET https://edge/one?y=z HTTP/1.1\r\nHost: other.example\r\n\r\n',
    'GET HTTPS://EDGE:8443/two HTTP/1.1\r\nHost: h\r\n\r\n',
    'GET https://edge HTTP/1.0\r\nConnection: keep-alive\r\n\r\n',
    'GET https://edge?y=z HTTP/1.1\r\nHost: h\r\n\r\n',
    'POST /four HTTP/1.1\r\nHost: [::1]:8443\r\nExpect: 200-maybe\r\nContent-Length: 1\r\n\r\na',
    get,
  ]
  assert.deepEqual(await statusesOf(edge, [asked.join('')]), [[200, 200, 200, 200, 200, 200]])
  assert.deepEqual(
    edge.seen.map(({ path }) => path),
    ['/one', '/two', '/', '/', '/four', '/x'],
  )
})

test('garbage instead of TLS is closed', async () => {
  await using edge = await startEdge()
  const socket = connectTcp(edge.address.port, '127.0.0.1')
  socket.on('error', () => undefined)
  socket.write('GET / HTTP/1.1\r\nHost: h\r\n\r\n')
  assert.doesNotMatch(await readAll(socket), /HTTP/)
})

test('a handshake that never finishes is closed', async () => {
  await using edge = await startEdge({ handshakeTimeoutMs: 100 })
  const socket = connectTcp({ port: edge.address.port, host: '127.0.0.1', allowHalfOpen: true })
  socket.on('error', () => undefined)
  const closed = readAll(socket)
  socket.on('end', () => socket.end())
  await closed
})

test('a connection over the limit is closed and the ones that are open go on', async () => {
  await using edge = await startEdge({ maxConnections: 1 })
  const first = await dial(edge)
  const second = connectTcp(edge.address.port, '127.0.0.1')
  second.on('error', () => undefined)
  assert.equal(await readAll(second), '')
  first.write(get)
  assert.match(await readAll(first), /200 OK/)
})

test('one address has only so many connections, and gets another when one is closed', async () => {
  await using edge = await startEdge({ maxConnectionsPerAddress: 2 })
  const [first, second] = [await dial(edge), await dial(edge)]
  await assert.rejects(dial(edge))
  first.destroy()
  let third: TLSSocket | undefined
  while (third === undefined) third = await dial(edge).catch(() => undefined)
  for (const socket of [second, third]) {
    socket.write(get)
    assert.match(await readAll(socket), /200 OK/)
  }
})

test('dispose lets a running request finish and closes what is idle', async () => {
  let finish!: () => void
  let asked!: () => void
  const arrived = new Promise<void>((resolve) => {
    asked = resolve
  })
  const edge = await startEdge({
    handle: async () => {
      asked()
      await new Promise<void>((resolve) => {
        finish = resolve
      })
      return { status: 200, body: 'finished' }
    },
  })
  const idle = await dial(edge)
  const idleClosed = once(idle, 'close')
  const busy = await dial(edge)
  busy.write('GET / HTTP/1.1\r\nHost: h\r\n\r\n')
  await arrived
  const closed = edge[Symbol.asyncDispose]()
  await idleClosed
  finish()
  assert.match(await readAll(busy), /finished$/)
  await closed
  await assert.rejects(dial(edge), { code: 'ECONNREFUSED' })
})

test('dispose does not wait for a peer that never finishes its handshake', async () => {
  const handshakeTimeoutMs = 60_000
  const edge = await startEdge({ handshakeTimeoutMs })
  const socket = connectTcp(edge.address.port, '127.0.0.1')
  socket.on('error', () => undefined)
  await once(socket, 'connect')
  const begun = performance.now()
  await edge[Symbol.asyncDispose]()
  assert.ok(performance.now() - begun < handshakeTimeoutMs)
})

test('a renewed credential is shown to the next peer', async () => {
  await using edge = await startEdge()
  const before = await dial(edge)
  assert.equal(before.getPeerCertificate().subject.CN, 'edge')
  before.destroy()
  edge.renew(await createParty('renewed'))
  const after = await dial(edge)
  assert.equal(after.getPeerCertificate().subject.CN, 'renewed')
  after.destroy()
})

test('a port in use is named in one sentence', async () => {
  const taken = createTcpServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  const { port } = taken.address() as { port: number }
  await assert.rejects(startEdge({ listen: `127.0.0.1:${port}` }), {
    code: 'port_in_use',
    message: `127.0.0.1:${port} is in use; choose another address or stop what uses it`,
  })
  taken.close()
})

test('an address of another machine is named in one sentence', async () => {
  await assert.rejects(startEdge({ listen: '192.0.2.1:0' }), {
    code: 'port_in_use',
    message: /^192\.0\.2\.1:0 cannot be listened on/,
  })
})

test('a client on this machine reaches a wildcard address as localhost', () => {
  assert.deepEqual(['0.0.0.0', '::', '192.0.2.1'].map(reachableHost), ['localhost', 'localhost', '192.0.2.1'])
})
