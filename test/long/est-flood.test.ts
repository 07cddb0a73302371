/**
 * Bad requests of every kind, from many addresses, against the EST service as a process of its own: what it holds afterwards is
 * what it held when the flood was young, and who has a token is served in the middle of it.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { after, before, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { createKeyAndCsr } from '../../pki/x509.ts'
import { basic, EnrollHarness, testConfiguration } from '../harness/fleet.ts'

const mib = 1_048_576
type Started = { est: string; root: string }
type Held = { live: number; rss: number }

if (process.env.ROLE === 'service') await serve()
else declare()

async function serve(): Promise<void> {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const fleet = await EnrollHarness.start({
    config: testConfiguration({
      profiles: { kiosk: { evidence: ['approval'], serverKeygen: 'clear' }, camera: { serverKeygen: 'clear' } },
      labels: { lobby: { profile: 'kiosk' } },
    }),
  })
  process.on('message', async (question: string) => {
    if (question === 'measure') {
      for (let turn = 0; turn < 5; turn++) {
        await delay(100)
        collect()
      }
      const { heapUsed, external, rss } = process.memoryUsage()
      process.send!({ live: heapUsed + external, rss } satisfies Held)
    } else {
      const { csrDer } = await createKeyAndCsr({ commonName: question })
      const { status } = await fleet.enroll(question, await fleet.token(question), csrDer)
      process.send!({ status })
    }
  })
  process.once('disconnect', () => void fleet[Symbol.asyncDispose]())
  process.send!({ est: fleet.endpoints.est, root: fleet.root } satisfies Started)
}

function declare(): void {
  let service: ChildProcess
  let ended: Promise<unknown[]>
  let started: Started
  const answer = async <T>(): Promise<T> => {
    const tooEarly = ended.then(([code, signal]) => assert.fail(`the service ended with ${code ?? signal}`))
    const [message] = await Promise.race([once(service, 'message'), tooEarly])
    return message as T
  }
  before(async () => {
    service = fork(import.meta.filename, { env: { ...process.env, ROLE: 'service' }, execArgv: [] })
    ended = once(service, 'exit')
    started = await answer<Started>()
  })
  after(async () => {
    if (service.connected) service.disconnect()
    await ended
  })
  const ask = <T>(question: string): Promise<T> => {
    service.send(question)
    return answer<T>()
  }

  const folder = new URL('../vectors/csr/', import.meta.url)
  const requests = readdirSync(folder).map((file) => JSON.parse(readFileSync(new URL(file, folder), 'utf8')).der)

  /** Another one for every number: what is kept by name, path, address or credential has no end of them. */
  const kinds: ((n: number, body: string) => string)[] = [
    (n, body) => post('simpleenroll', body, [`Authorization: ${basic(`cam-${n}`, `guess-${n}`)}`]),
    (n, body) => post('serverkeygen', body, [`Authorization: Bearer ${'x'.repeat(2_000)}${n}`]),
    (n) => post('simpleenroll', 'A'.repeat(60_000), [`Authorization: ${basic(`cam-${n}`, 'x')}`]),
    (n, body) => post('fullcmc', body, [`X-${n}: y`], 'application/pkcs7-mime; smime-type=CMC-request'),
    (_n, body) => post('lobby/simpleenroll', body),
    (_n, body) => post('lobby/serverkeygen', body),
    (n, body) => post(`${'p'.repeat(3_000)}${n}`, body),
    (n, body) => post('simplereenroll', body, [`Content-Type: text/${n}`]),
    (n) => `GET https://host-${n}.example/.well-known/est/cacerts HTTP/1.1\r\nHost: h\r\n\r\n`,
  ]
  const endings: ((n: number) => string)[] = [
    (n) => `GET /.well-known/est/cacerts HTTP/1.1\r\nHost: h\r\nX-${'n'.repeat(9_000)}${n}: y\r\n\r\n`,
    (n) => `${n}\r\n\r\n`,
    (n) => `POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999\r\n\r\n${n}`,
    () => 'GET /.well-known/est/cacerts HTTP/1.1\r\nHost: h\r\n\r\n'.repeat(40),
  ]
  const post = (path: string, body: string, headers: string[] = [], type = 'application/pkcs10'): string =>
    [
      `POST /.well-known/est/${path} HTTP/1.1`,
      'Host: h',
      `Content-Type: ${type}`,
      ...headers,
      `Content-Length: ${body.length}`,
      '',
      body,
    ].join('\r\n')

  /**
   * On each connection several requests, then something that ends it or leaves it half-way; every other one resumes a
   * session. @returns the number of the next request
   */
  async function flood(from: number, { seconds, atMost }: { seconds: number; atMost: number }): Promise<number> {
    const atLeast = 500 // on a slow machine, or it is no flood
    const until = performance.now() + seconds * 1_000
    const { hostname, port } = new URL(started.est)
    const to = { host: hostname, port: Number(port) }
    const open = new Set<Promise<void>>()
    let session: Buffer | undefined
    let n = from
    for (let turn = 0; n - from < atLeast || (performance.now() < until && n - from < atMost); turn++) {
      const all = Array.from({ length: 6 }, () => kinds[n % kinds.length]!(n, requests[n++ % requests.length]))
      const bytes = all.join('') + endings[turn % endings.length]!(n++)
      const bare = connect({ ...to, localAddress: `127.0.${turn % 7}.${1 + (turn % 200)}` })
      const socket =
        turn % 17 === 0
          ? bare.on('connect', () => socket.write(bytes))
          : connectTls({ ...to, socket: bare, ca: started.root, session }, () => socket.write(bytes))
      socket.once('session', (ticket: Buffer) => {
        session = turn % 2 === 0 ? ticket : undefined
      })
      socket.on('error', () => undefined)
      if (turn % 13 !== 0) socket.resume() // the others read nothing
      const timer = setTimeout(() => socket.destroy(), 2_000)
      const closed = new Promise<void>((resolve) => {
        socket.once('close', () => {
          clearTimeout(timer)
          open.delete(closed)
          resolve()
        })
      })
      open.add(closed)
      while (open.size >= 40) await Promise.race(open)
    }
    await Promise.all(open)
    return n
  }

  test('a flood of bad requests of every kind leaves no more behind than its beginning did, and a good one is served in it', async () => {
    const young = await flood(0, { seconds: 6, atMost: 6_000 })
    const before = await ask<Held>('measure')
    const [sent, good] = await Promise.all([
      flood(young, { seconds: 7, atMost: 20_000 }),
      delay(3_000).then(() => ask<{ status: number }>('good-1')),
    ])
    const after = await ask<Held>('measure')
    assert.equal(good.status, 200)
    const told = `${young} requests, then ${sent - young}: ${JSON.stringify([before, after])}`
    console.log(told)
    assert.ok(after.live - before.live < 6 * mib, told)
    assert.ok(after.rss - before.rss < 64 * mib, told)
  })
}
