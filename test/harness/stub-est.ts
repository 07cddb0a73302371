import type { IncomingMessage } from 'node:http'
import { createServer, type Server } from 'node:https'
import type { AddressInfo } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { parsePem } from '../../pki/certificate.ts'
import { certsOnly } from '../../pki/cms.ts'
import type { TestCertificate, TestPki } from './certificates.ts'

export type EstRequest = { path: string; body: string; headers: IncomingMessage['headers']; peer: string | undefined }
export type EstAnswer = { status: number; body: string }

/** An EST server that answers what a test says. */
export class StubEst implements AsyncDisposable {
  readonly requests: EstRequest[] = []
  readonly url: string
  readonly #server: Server

  private constructor(server: Server) {
    this.#server = server
    this.url = `https://localhost:${(server.address() as AddressInfo).port}`
  }

  static async start(
    pki: TestPki,
    answer: (request: EstRequest, count: number) => EstAnswer,
    credential?: TestCertificate,
  ): Promise<StubEst> {
    const { key, chain } = credential ?? (await pki.service('enroll'))
    let stub: StubEst | undefined
    const server = createServer(
      { key, cert: chain, ca: pki.anchors, requestCert: true, rejectUnauthorized: false },
      async (request, response) => {
        let body = ''
        for await (const chunk of request) body += chunk
        const peer = (request.socket as TLSSocket).getPeerX509Certificate()?.subject
        // RFC 7030 4.5.2: a server that wants nothing in particular.
        if (request.url!.endsWith('/csrattrs')) return void response.writeHead(404, { 'Content-Length': 0 }).end()
        const seen = { path: request.url!, body, headers: request.headers, peer }
        stub!.requests.push(seen)
        const given = answer(seen, stub!.requests.length)
        response.writeHead(given.status, { 'Content-Length': Buffer.byteLength(given.body) }).end(given.body)
      },
    )
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    stub = new StubEst(server)
    return stub
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }
}

export const certificatesOf = (...pems: string[]): string =>
  certsOnly(pems.flatMap((pem) => parsePem(pem, 'CERTIFICATE'))).toString('base64')
