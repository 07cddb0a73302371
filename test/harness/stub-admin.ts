import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import type { IncomingHttpHeaders } from 'node:http'
import { createServer, type Server } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TLSSocket } from 'node:tls'
import { type Endpoints, writeEndpoints } from '../../runtime/endpoints.ts'
import { type TestCertificate, TestPki } from './certificates.ts'

export type AdminRequest = {
  method: string
  path: string
  query: Record<string, string>
  body: unknown
  headers: IncomingHttpHeaders
  peer: string
}
/** `break` closes the connection without an answer; `silent` never answers. */
export type AdminAnswer = { status: number; body: unknown; headers?: Record<string, string> } | 'break' | 'silent'

/** An admin API over mutual TLS that answers what a test says, and a data folder whose endpoints.json points to it. */
export class StubAdmin implements AsyncDisposable {
  readonly dataDir = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
  readonly requests: AdminRequest[] = []
  readonly endpoints: Endpoints
  readonly #server: Server

  private constructor(server: Server, endpoints: (folder: string, origin: string) => Endpoints) {
    this.#server = server
    this.endpoints = endpoints(this.dataDir, `https://127.0.0.1:${(server.address() as AddressInfo).port}`)
    writeEndpoints(this.dataDir, this.endpoints)
  }

  static async start(
    answer: (request: AdminRequest, count: number) => AdminAnswer,
    options: { serverName?: string; operator?: TestCertificate } = {},
  ): Promise<StubAdmin> {
    const pki = await TestPki.create()
    const service = await pki.service(options.serverName ?? 'enroll')
    const operator = options.operator ?? (await pki.service('operator'))
    let stub: StubAdmin | undefined
    const server = createServer(
      { key: service.key, cert: service.chain, ca: pki.anchors, requestCert: true, rejectUnauthorized: true },
      async (request, response) => {
        let text = ''
        for await (const chunk of request) text += chunk
        const url = new URL(request.url!, 'https://stub')
        const seen: AdminRequest = {
          method: request.method!,
          path: url.pathname,
          query: Object.fromEntries(url.searchParams),
          body: text === '' ? undefined : JSON.parse(text),
          headers: request.headers,
          peer: String((request.socket as TLSSocket).getPeerCertificate().subject.CN),
        }
        stub!.requests.push(seen)
        const given = answer(seen, stub!.requests.length)
        if (given === 'break') request.socket.destroy()
        else if (given !== 'silent') {
          response
            .writeHead(given.status, { 'Content-Type': 'application/json', ...given.headers })
            .end(JSON.stringify(given.body))
        }
      },
    )
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    stub = new StubAdmin(server, (folder, origin) => {
      const file = (name: string, content: string, mode: number): string => {
        mkdirSync(join(folder, 'operator'), { recursive: true })
        const path = join(folder, 'operator', name)
        writeFileSync(path, content, { mode })
        return path
      }
      return {
        est: 'https://localhost:1',
        mqtts: 'mqtts://localhost:2',
        admin: origin,
        rootFingerprint: pki.root.fingerprint,
        rootCertificate: file('root.crt', pki.root.pem, 0o644),
        operatorCertificate: file('operator.crt', operator.chain, 0o644),
        operatorKey: file('operator.key', operator.key, 0o600),
      }
    })
    return stub
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
    rmSync(this.dataDir, { recursive: true, force: true })
  }
}

export const problem = (status: number, code: string, detail: string): AdminAnswer => ({
  status,
  body: { type: `urn:fleetgate:problem:${code}`, title: code, status, detail, code },
})
