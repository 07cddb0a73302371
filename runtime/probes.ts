import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { joinAddress } from './config.ts'
import { listen } from './https.ts'
import type { Log } from './log.ts'

/** Why a part of a service cannot do its work now, by the name of the part; undefined for one that can. */
export type Readiness = Record<string, string | undefined>

export type Probes = AsyncDisposable & { url: string }

const readyMs = 1_000
const maxConnections = 32
const timeoutMs = 5_000

/** Asks no more often than once a second, however many ask for it. */
export function seldom(ready: () => Promise<Readiness>): () => Promise<Readiness> {
  let looked: { at: number; answer: Promise<Readiness> } | undefined
  return () => {
    const now = performance.now()
    if (looked === undefined || now - looked.at >= readyMs) looked = { at: now, answer: ready() }
    return looked.answer
  }
}

/**
 * Plain HTTP for who runs the service: `/metrics`, `/livez` (the process answers) and `/readyz` (it can do its work, or which
 * part cannot). It shows no device and changes nothing, and has no access control of its own: where it listens decides.
 *
 * @param options.ready asked for each question to `/readyz`: what costs something is made `seldom`
 * @throws FleetError `port_in_use`
 */
export async function createProbes(options: {
  listen: string
  metrics: () => Promise<string>
  ready: () => Promise<Readiness>
  log: Log
}): Promise<Probes> {
  const { metrics, ready, log } = options
  const answers: Record<string, () => Promise<[status: number, body: string]>> = {
    '/livez': async () => [200, 'ok\n'],
    '/readyz': async () => {
      const found = Object.entries(await ready())
      const isReady = found.every(([, fault]) => fault === undefined)
      return [isReady ? 200 : 503, found.map(([part, fault]) => `${part}: ${fault ?? 'ok'}\n`).join('')]
    },
    '/metrics': async () => [200, await metrics()],
  }
  const server = createServer({
    maxHeaderSize: 4_096,
    requestTimeout: timeoutMs,
    headersTimeout: timeoutMs,
    keepAliveTimeout: timeoutMs,
  })
  server.maxConnections = maxConnections
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    const path = (request.url ?? '/').split('?', 1)[0]!
    const answer = Object.hasOwn(answers, path) ? answers[path] : undefined
    const isAsked = request.method === 'GET' || request.method === 'HEAD'
    request.resume()
    const reply = (status: number, body: string): void => {
      const type = path === '/metrics' && status === 200 ? 'text/plain; version=0.0.4; charset=utf-8' : 'text/plain'
      response.writeHead(status, { 'Content-Type': type, 'Content-Length': Buffer.byteLength(body) })
      response.end(request.method === 'HEAD' ? undefined : body)
    }
    if (answer === undefined) reply(404, '/metrics, /livez and /readyz are here\n')
    else if (!isAsked) reply(405, 'GET is taken here\n')
    else {
      answer().then(
        ([status, body]) => reply(status, body),
        (err: unknown) => {
          log.error({ event: 'probe.failed', path, err }, 'a probe could not be answered')
          reply(500, 'the log has more\n')
        },
      )
    }
  })
  const { host, port } = await listen(server, options.listen)
  return {
    url: `http://${joinAddress(host, port)}`,
    async [Symbol.asyncDispose]() {
      await new Promise<void>((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      })
    },
  }
}
