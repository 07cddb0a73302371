/** A whole gateway in one process, on loopback and free ports, in a folder of its own. */
import { randomUUID } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { Agent, request as httpsRequest, type RequestOptions } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TokenView } from '../../contract/admin-api.ts'
import { type Configuration, configuration } from '../../contract/configuration.ts'
import type { Role } from '../../contract/operator-api.ts'
import type { ProblemCode } from '../../contract/problems.ts'
import { renewalWindow } from '../../contract/renewal-window.ts'
import { codesOf } from '../../enroll/admin/openapi.ts'
import { routes } from '../../enroll/admin/table.ts'
import { createEnrollService, type EnrollService } from '../../enroll/service.ts'
import { type CertificateFacts, parseCertificate, toPem } from '../../pki/certificate.ts'
import { parseCertsOnly } from '../../pki/cms.ts'
import { type ClientKeyType, createCsr, createKeyAndCsr } from '../../pki/x509.ts'
import { createLog } from '../../runtime/log.ts'

export type Answer = { status: number; headers: Record<string, string | string[] | undefined>; body: string }
export type DeviceKeys = { id: string; key: string; certificate: string; csrDer: Buffer; serial: string }
type Ask = { method?: string; headers?: Record<string, string>; body?: string | Buffer } & Pick<
  RequestOptions,
  'agent' | 'key' | 'cert' | 'minVersion' | 'maxVersion' | 'secureOptions' | 'createConnection'
>
/** `label` stands before the operation (RFC 7030 3.2.2). */
type AskEst = Ask & { label?: string }

/** FLEETGATE_TEST_LOG=debug shows what the services log. */
const logLevel = process.env.FLEETGATE_TEST_LOG ?? 'silent'

export function testConfiguration(
  change: { enroll?: object; broker?: object } & Record<string, unknown> = {},
): Configuration {
  const { enroll, broker, ...rest } = change
  return configuration.parse({
    enroll: { est: '127.0.0.1:0', admin: '127.0.0.1:0', feed: '127.0.0.1:0', ...enroll },
    broker: { listen: '127.0.0.1:0', ...broker },
    ...rest,
  })
}

export class EnrollHarness implements AsyncDisposable {
  readonly dataDir: string
  readonly config: Configuration
  /** For many requests over one connection of each credential: a handshake costs more than most of what is asked. */
  readonly kept = new Agent({ keepAlive: true })
  /** What the admin API reads anew, where a test says so. */
  load: () => Configuration = () => this.config
  readonly #clock: () => Date
  #service: EnrollService | undefined

  private constructor(dataDir: string, config: Configuration, clock: () => Date) {
    this.dataDir = dataDir
    this.config = config
    this.#clock = clock
  }

  static async start(options: { config?: Configuration; clock?: () => Date } = {}): Promise<EnrollHarness> {
    const dataDir = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
    const harness = new EnrollHarness(
      dataDir,
      options.config ?? testConfiguration(),
      options.clock ?? (() => new Date()),
    )
    await harness.open()
    return harness
  }

  async open(): Promise<void> {
    this.#service = await createEnrollService({
      config: this.config,
      dataDir: this.dataDir,
      clock: this.#clock,
      load: () => this.load(),
      log: createLog('enroll', logLevel),
    })
  }

  async reconfigure(load: () => Configuration): Promise<void> {
    await this.#service!.reconfigure(load, { by: 'file', actor: 'system' })
  }

  /** Ends the service and leaves its folder. */
  async close(): Promise<void> {
    this.kept.destroy()
    await this.#service?.[Symbol.asyncDispose]()
    this.#service = undefined
  }

  get endpoints(): EnrollService['endpoints'] {
    return this.#service!.endpoints
  }

  /** Where there is an address in the configuration. */
  get probes(): string {
    return this.#service!.probes!
  }

  get root(): string {
    return readFileSync(join(this.dataDir, 'root.crt'), 'utf8')
  }

  get operator(): { key: string; cert: string } {
    const { operatorKey, operatorCertificate } = this.endpoints
    return { key: readFileSync(operatorKey, 'utf8'), cert: readFileSync(operatorCertificate, 'utf8') }
  }

  /** One HTTPS request to any listener, verified against the root. */
  ask(url: string, { method = 'GET', headers, body, ...tls }: Ask = {}): Promise<Answer> {
    return new Promise((resolve, reject) => {
      // An agent would make its own connection instead of the given one.
      const agent = tls.createConnection === undefined ? false : undefined
      const request = httpsRequest(url, { method, headers, ca: this.root, agent, ...tls }, (response) => {
        // Its end would not come.
        if (response.headers['content-type'] === 'text/event-stream') {
          request.destroy()
          resolve({ status: response.statusCode!, headers: response.headers, body: '' })
        }
        let text = ''
        response.setEncoding('utf8')
        response.on('data', (chunk: string) => {
          text += chunk
        })
        response.on('end', () => resolve({ status: response.statusCode!, headers: response.headers, body: text }))
      })
      request.on('error', reject)
      request.end(body)
    })
  }

  /** Over the connection that is kept where nothing is said of it: of TLS, of a certificate. */
  est(operation: string, { label, ...ask }: AskEst = {}): Promise<Answer> {
    const { method: _method, headers: _headers, body: _body, ...tls } = ask
    if (Object.keys(tls).length === 0) ask.agent = this.kept
    return this.ask(`${this.endpoints.est}/.well-known/est/${label === undefined ? '' : `${label}/`}${operation}`, ask)
  }

  /** A request as the operator, JSON in and out; any answer. */
  async admin(method: string, path: string, body?: unknown, headers: Record<string, string> = {}) {
    const answer = await this.ask(`${this.endpoints.admin}/v1${path}`, {
      method,
      headers: { ...(body === undefined ? {} : { 'Content-Type': 'application/json' }), ...headers },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      ...this.operator,
      agent: this.kept,
    })
    // biome-ignore lint/suspicious/noExplicitAny: tests look into whatever was answered
    const parsed = JSON.parse(answer.body) as any
    requireDocumented(method, `/v1${path}`, answer.status, parsed)
    return { status: answer.status, body: parsed }
  }

  /** Makes one, as the first operator. */
  async newOperator(name: string, role: Role): Promise<{ key: string; cert: string }> {
    const { privateKeyPem, csrDer } = await createKeyAndCsr({ commonName: name })
    const csr = toPem(csrDer, 'CERTIFICATE REQUEST')
    const { status, body } = await this.admin('POST', '/operators', { name, role, csr })
    if (status !== 201) throw new Error(body.detail)
    return { key: privateKeyPem, cert: body.certificate }
  }

  /** With a credential that need not be an operator's. */
  async adminAs(shown: { key: string; cert: string }, path = '/status', body?: object) {
    const sent = body && {
      ...{ method: 'POST', body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } },
    }
    const answer = await this.ask(`${this.endpoints.admin}/v1${path}`, { ...shown, ...sent })
    const { code, certificate } = JSON.parse(answer.body)
    return { status: answer.status, code, certificate }
  }

  async token(
    deviceId: string,
    options: { profile?: string; groups?: string[]; ttlMs?: number } = {},
  ): Promise<string> {
    const { status, body } = await this.admin('POST', '/tokens', { deviceId, profile: 'camera', ...options })
    if (status !== 201) throw new Error(body.detail)
    return (body as TokenView).token
  }

  enroll(id: string, token: string, csrDer: Buffer, ask: AskEst = {}): Promise<Answer> {
    return this.est('simpleenroll', {
      method: 'POST',
      headers: { 'Content-Type': 'application/pkcs10', Authorization: basic(id, token) },
      body: csrDer.toString('base64'),
      ...ask,
    })
  }

  reenroll(device: Pick<DeviceKeys, 'key' | 'certificate'>, csrDer: Buffer, ask: AskEst = {}): Promise<Answer> {
    return this.est('simplereenroll', {
      method: 'POST',
      headers: { 'Content-Type': 'application/pkcs10' },
      body: csrDer.toString('base64'),
      key: device.key,
      cert: device.certificate,
      ...ask,
    })
  }

  async enrolledDevice(
    id = `cam-${randomUUID().slice(0, 8)}`,
    options: { profile?: string; groups?: string[]; keyType?: ClientKeyType; label?: string } = {},
  ): Promise<DeviceKeys> {
    const { keyType, label, ...device } = options
    const token = await this.token(id, device)
    const { privateKeyPem, csrDer } = await createKeyAndCsr({ commonName: id, ...(keyType ? { keyType } : {}) })
    const answer = await this.enroll(id, token, csrDer, label === undefined ? {} : { label })
    if (answer.status !== 200) throw new Error(answer.body)
    const certificate = certificateOf(answer)
    return { id, key: privateKeyPem, certificate: certificate.pem, csrDer, serial: certificate.serial }
  }

  /** A request that keeps the device's subject, for the same key or another. */
  renewalCsr(device: DeviceKeys, privateKeyPem = device.key): Promise<Buffer> {
    const subject = parseCertificate(pemToDer(device.certificate)).subject.der
    return createCsr({ privateKeyPem, subject })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
    rmSync(this.dataDir, { recursive: true, force: true })
  }
}

/** Whatever a test asks of the admin API: the answer is of the shape, or has one of the codes, that its document promises. */
export function requireDocumented(method: string, url: string, status: number, body: unknown): void {
  const path = new URL(url, 'https://gateway').pathname.split('/')
  const row = routes.find(
    (one) =>
      one.method === method &&
      one.path.split('/').length === path.length &&
      one.path.split('/').every((part, at) => part.startsWith(':') || part === path[at]),
  )
  if (row === undefined) return
  if (status === (row.status ?? 200)) row.answer.parse(body)
  else {
    const { code } = body as { code: ProblemCode }
    if (!codesOf(row).includes(code))
      throw new Error(`${method} ${row.path} answered ${status} ${code}, which is not documented`)
  }
}

/** HTTP Basic, the device id as user name and the token as password. */
export const basic = (id: string, token: string): string => `Basic ${Buffer.from(`${id}:${token}`).toString('base64')}`

export const codeOf = (answer: { body: string }): string => answer.body.split(':', 1)[0]!

export const pemToDer = (pem: string): Buffer => Buffer.from(pem.replaceAll(/-----[^-]+-----|\s/g, ''), 'base64')

/** The one certificate of a certs-only answer. */
export function certificateOf(answer: Pick<Answer, 'body'>) {
  const certificates = parseCertsOnly(Buffer.from(answer.body, 'base64'))
  if (certificates.length !== 1) throw new Error(`${certificates.length} certificates`)
  const facts = parseCertificate(certificates[0]!)
  return { ...facts, pem: toPem(facts.der) }
}

/** An answer says when what it gives is to be renewed. */
export function requireWindow(headers: Answer['headers'], certificate: CertificateFacts): void {
  const { from, to } = renewalWindow(certificate.der, certificate)
  const told = headers['fleetgate-renewal-window']
  if (told !== `${from.toISOString()}/${to.toISOString()}`) throw new Error(`the window is told as ${told}`)
}

/** A clock that a test moves. */
export function movableClock(start = new Date()): { now: () => Date; advance(ms: number): void } {
  let at = start.getTime()
  return {
    now: () => new Date(at),
    advance(ms) {
      at += ms
    },
  }
}
