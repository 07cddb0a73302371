import { createHash, X509Certificate } from 'node:crypto'
import { Agent, type RequestOptions, request } from 'node:https'
import type { TLSSocket } from 'node:tls'
import { parseCertificate, toPem } from '../pki/certificate.ts'
import { parseCertsOnly } from '../pki/cms.ts'
import { asksForChannelBinding } from '../pki/csr-attributes.ts'
import { channelBindingOf } from '../runtime/channel-binding.ts'
import { FleetError } from '../runtime/errors.ts'

const timeoutMs = 30_000
const maxAnswerBytes = 262_144

/** An answer other than 200: its status and the sentence that the server says it with (RFC 7030 4.2.3). */
export class EstError extends Error {
  override readonly name = 'EstError'
  readonly status: number
  readonly sentence: string
  /** Of a 202: the request waits for somebody, and the same one is to be sent again after that time (RFC 7030 4.2.3). */
  readonly retryAfterMs: number | undefined

  constructor(operation: string, status: number, sentence: string, retryAfterMs?: number) {
    super(`${operation} was answered with ${status}: ${sentence}`)
    this.status = status
    this.sentence = sentence
    this.retryAfterMs = retryAfterMs
  }
}

/**
 * Makes the PKCS#10, DER, with this challengePassword: the channel binding (RFC 7030 3.5) of the connection that it goes over,
 * undefined where the server does not ask for one.
 */
export type MakeCsr = (challengePassword: string | undefined) => Promise<Buffer>

/** Whom this device believes: the pinned root and the CA certificates between it and a device's own. */
export type Trust = { rootPem: string; intermediatesPem: string }

/**
 * Fetches the CA certificates and believes them only because of the pin (RFC 7030 4.1.1): the first answer is taken from
 * anybody and yields nothing but the certificate with that fingerprint; what counts comes from a server that it vouches for.
 *
 * @param url             `https://host:port`, with or without the path of RFC 7030 3.2.2
 * @param rootFingerprint SHA-256 of the root's DER: hex of either case, with or without colons
 */
export async function fetchTrust(url: string, rootFingerprint: string): Promise<Trust> {
  const wanted = rootFingerprint.replaceAll(':', '').toLowerCase()
  const offered = await cacerts(url, { rejectUnauthorized: false })
  const root = offered.find((der) => createHash('sha256').update(der).digest('hex') === wanted)
  if (root === undefined) {
    throw new FleetError(
      'gateway_untrusted',
      `none of the ${offered.length} CA certificates at ${url} has the pinned fingerprint ${wanted}`,
    )
  }
  const rootPem = toPem(root)
  const anchor = new X509Certificate(root)
  const vouchedFor = await cacerts(url, { ca: rootPem })
  const intermediates = vouchedFor.filter((der) => {
    const certificate = new X509Certificate(der)
    return (
      !root.equals(der) && certificate.ca && certificate.checkIssued(anchor) && certificate.verify(anchor.publicKey)
    )
  })
  return { rootPem, intermediatesPem: intermediates.map((der) => toPem(der)).join('') }
}

/** One EST server, trusted by its chain to the pinned root. */
export class EstClient {
  readonly trust: Trust
  readonly #url: string

  constructor(url: string, trust: Trust) {
    this.#url = url
    this.trust = trust
  }

  /**
   * @param input.token    is spent by it
   * @param input.born     what the device has from its factory, as PEM: a certificate of its own or one it shares
   * @returns the certificate as PEM
   */
  simpleenroll(input: {
    id: string
    token?: string | undefined
    born?: { certificatePem: string; privateKeyPem: string } | undefined
    csr: MakeCsr
  }): Promise<string> {
    const { id, token, born, csr } = input
    // RFC 7030 3.2.3: HTTP Basic, inside TLS alone.
    const basic = token === undefined ? undefined : `Basic ${Buffer.from(`${id}:${token}`).toString('base64')}`
    return this.#enroll('simpleenroll', csr, {
      ...(basic === undefined ? {} : { headers: { Authorization: basic } }),
      ...(born === undefined ? {} : { cert: born.certificatePem, key: born.privateKeyPem }),
    })
  }

  /** @param input key and certificate as PEM: the ones that are to be replaced */
  simplereenroll(input: { privateKeyPem: string; certificatePem: string; csr: MakeCsr }): Promise<string> {
    const cert = input.certificatePem + this.trust.intermediatesPem
    return this.#enroll('simplereenroll', input.csr, { cert, key: input.privateKeyPem })
  }

  async #enroll(operation: string, csr: MakeCsr, credentials: RequestOptions): Promise<string> {
    // One connection for both where the server keeps it. A resumed session would save little and has another binding.
    const agent = new Agent({ keepAlive: true, maxSockets: 1, maxCachedSessions: 0 })
    const options = { ...credentials, agent, ca: this.trust.rootPem }
    try {
      const isBound = await wantsChannelBinding(this.#url, options)
      const bodyOf = async (socket: TLSSocket): Promise<string> => {
        const der = await csr(isBound ? challengeOf(socket) : undefined)
        return `${der.toString('base64')}\n`
      }
      return leafOf(operation, await exchange(this.#url, operation, options, bodyOf))
    } finally {
      agent.destroy()
    }
  }
}

/** RFC 7030 4.5. Whatever the answer but a wish, the enrollment says what is wrong. */
async function wantsChannelBinding(url: string, options: RequestOptions): Promise<boolean> {
  const { status, text } = await send(operationUrl(url, 'csrattrs'), options)
  return status === 200 && asksForChannelBinding(decodeBase64(text))
}

function challengeOf(socket: TLSSocket): string {
  const binding = channelBindingOf(socket, 'client')
  if (binding !== undefined) return binding.toString('base64')
  throw new FleetError(
    'channel_binding_unavailable',
    'the server asks for a channel binding, which takes TLS 1.3, or TLS 1.2 with Extended Master Secret',
  )
}

const cacerts = async (url: string, options: RequestOptions): Promise<Buffer[]> =>
  certificatesIn(await exchange(url, 'cacerts', { ...options, agent: false }))

async function exchange(url: string, operation: string, options: RequestOptions, body?: MakeBody): Promise<string> {
  const answer = await send(operationUrl(url, operation), options, body)
  if (answer.status !== 200) throw refusalOf(operation, answer)
  return answer.text
}

export const refusalOf = (operation: string, { status, text, retryAfter }: Answer): EstError =>
  new EstError(operation, status, text.trim().slice(0, 500), waitOf(status, retryAfter))

const certificatesIn = (text: string): Buffer[] => parseCertsOnly(decodeBase64(text))

/** The certificate for this device in an answer, as PEM. */
export function leafOf(operation: string, text: string): string {
  const [leaf] = certificatesIn(text).filter((der) => !parseCertificate(der).isCa)
  if (leaf === undefined) throw new Error(`${operation} was answered without a certificate for this device`)
  return toPem(leaf)
}

/** Never so short that it is a storm, never so long that a device is lost. */
function waitOf(status: number, retryAfter: string | undefined): number | undefined {
  if (status !== 202) return undefined
  const seconds = /^\d{1,9}$/.test(retryAfter ?? '') ? Number(retryAfter) : 60
  return Math.min(Math.max(seconds, 1), 86_400) * 1000
}

type Answer = { status: number; text: string; retryAfter: string | undefined }

export function operationUrl(url: string, operation: string): URL {
  const base = new URL(url)
  if (base.pathname === '/') base.pathname = '/.well-known/est'
  base.pathname = `${base.pathname.replace(/\/$/, '')}/${operation}`
  return base
}

type MakeBody = (socket: TLSSocket) => Promise<string>

/** @param body makes what is posted, once the connection is there that it goes over */
function send(url: URL, { headers, ...options }: RequestOptions, body?: MakeBody): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const signal = AbortSignal.timeout(timeoutMs)
    const method =
      body === undefined ? {} : { method: 'POST', headers: { ...headers, 'Content-Type': 'application/pkcs10' } }
    const sent = request(url, { headers, ...options, ...method, signal }, (response) => {
      let text = ''
      response.setEncoding('utf8')
      response.on('data', (chunk: string) => {
        text += chunk
        if (text.length > maxAnswerBytes) sent.destroy(new Error(`the answer is longer than ${maxAnswerBytes} bytes`))
      })
      response.on('error', reject)
      const retryAfter = response.headers['retry-after']
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text, retryAfter }))
    })
    sent.on('error', reject)
    if (body === undefined) return void sent.end()
    sent.once('socket', (socket: TLSSocket) => {
      const post = (): void => {
        body(socket).then(
          (text) => sent.setHeader('Content-Length', Buffer.byteLength(text)).end(text),
          (error) => sent.destroy(error),
        )
      }
      if (socket.connecting) socket.once('secureConnect', post)
      else post()
    })
  })
}

// RFC 8951 3.1: wrapped or not, whatever Content-Transfer-Encoding says; some servers add PEM armour.
function decodeBase64(text: string): Buffer {
  const plain = text.replaceAll(/-----[A-Z0-9 ]+-----/g, '').replaceAll(/\s/g, '')
  if (!/^[A-Za-z0-9+/]+={0,2}$/.test(plain)) throw new Error('the answer is not base64')
  return Buffer.from(plain, 'base64')
}
