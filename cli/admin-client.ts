import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { Agent, request } from 'node:https'
import { z } from 'zod'
import {
  type AllowanceView,
  type AllowDevices,
  type ApprovalView,
  type ApproveRequest,
  type AuditPage,
  allowanceView,
  allowReceipt,
  approvalView,
  auditPage,
  type CertificateReceipt,
  type CertificateView,
  type ChangeDevice,
  type CreateDevice,
  type CreateToken,
  certificateReceipt,
  certificateView,
  type DenialPage,
  type DenyRequest,
  type DeviceView,
  type DisallowDevices,
  denialPage,
  deviceView,
  disallowReceipt,
  type HoldReceipt,
  holdReceipt,
  type PolicyView,
  type pageOf,
  policyView,
  type ReadmitDevice,
  type RegisterCertificate,
  type RevocationReceipt,
  revocationReceipt,
  type StatusView,
  statusView,
  type TheftReceipt,
  type TokenView,
  theftReceipt,
  tokenView,
} from '../contract/admin-api.ts'
import { type BulkReceipt, bulkReceipt, type ChangeDevices } from '../contract/bulk-api.ts'
import { type Denial, denialView } from '../contract/denials.ts'
import type { RevocationReason } from '../contract/ids.ts'
import { type IncidentView, incidentView } from '../contract/incidents.ts'
import { type AllowLateRenewal, type LateRenewalView, lateRenewalView } from '../contract/late-renewal-api.ts'
import { sessionsAtOnce } from '../contract/live-sessions.ts'
import type { PolicyDocument } from '../contract/policy-document.ts'
import { type ProblemCode, problems } from '../contract/problems.ts'
import {
  type KickReceipt,
  type KickSession,
  kickReceipt,
  type SessionPage,
  sessionPage,
  type Unheard,
} from '../contract/session-api.ts'
import { commandLine, type Endpoints, readEndpoints } from '../runtime/endpoints.ts'
import { FleetError } from '../runtime/errors.ts'
import { readPassphrase, readPrivateFile } from '../runtime/files.ts'

// The admin listener may be reached by any address; what its certificate proves is this name.
const servername = 'enroll.fleetgate.internal'
const answerTimeoutMs = 15_000
const maxAnswerBytes = 64 * 1024 * 1024
const pageSize = 1_000

type Query = Record<string, string | number | undefined>
type Call = {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  path: string
  query?: Query
  body?: unknown
  waitMs?: number
  signal?: AbortSignal | undefined
}
type Answer = { status: number; text: string }

/** Finds the gateway that runs on `dataDir` and its operator credential. */
export function openAdminClient(dataDir: string): AdminClient {
  return new AdminClient(readEndpoints(dataDir), dataDir)
}

/**
 * The admin API over mutual TLS. Every method throws FleetError: the gateway's own problem with its code and detail
 * (`context.refused` is true when it answered 4xx), or `unavailable` when there is no answer.
 */
export class AdminClient implements Disposable {
  readonly #base: URL
  readonly #agent: Agent
  readonly #dataDir: string

  constructor(endpoints: Endpoints, dataDir: string) {
    this.#base = new URL(endpoints.admin)
    this.#dataDir = dataDir
    const passphrase = readPassphrase(endpoints.operatorKeyPassphraseFile)
    this.#agent = new Agent({
      keepAlive: true,
      ca: readFile(endpoints.rootCertificate),
      cert: readFile(endpoints.operatorCertificate),
      key: readPrivateFile(endpoints.operatorKey),
      ...(passphrase === undefined ? {} : { passphrase }),
      servername,
    })
  }

  [Symbol.dispose](): void {
    this.#agent.destroy()
  }

  status(): Promise<StatusView> {
    return this.#call(statusView, { method: 'GET', path: '/v1/status' })
  }

  forgetBroker(id: string): Promise<{ id: string }> {
    return this.#call(z.object({ id: z.string() }), { method: 'DELETE', path: `/v1/brokers/${encodeURIComponent(id)}` })
  }

  createDevice(body: CreateDevice): Promise<DeviceView> {
    return this.#call(deviceView, { method: 'POST', path: '/v1/devices', body })
  }

  listDevices(query: { group?: string; profile?: string; status?: string }): Promise<DeviceView[]> {
    return this.#pages(deviceView, '/v1/devices', query)
  }

  getDevice(id: string): Promise<DeviceView> {
    return this.#call(deviceView, { method: 'GET', path: `/v1/devices/${encodeURIComponent(id)}` })
  }

  allowDevices(body: AllowDevices): Promise<{ added: number }> {
    return this.#call(allowReceipt, { method: 'POST', path: '/v1/devices/allow', body })
  }

  disallowDevices(body: DisallowDevices): Promise<{ removed: number }> {
    return this.#call(disallowReceipt, { method: 'POST', path: '/v1/devices/disallow', body })
  }

  listAllowances(query: { label?: string; deviceId?: string }): Promise<AllowanceView[]> {
    return this.#pages(allowanceView, '/v1/allowances', query)
  }

  changeDevice(id: string, body: ChangeDevice): Promise<DeviceView> {
    return this.#call(deviceView, { method: 'PATCH', path: `/v1/devices/${encodeURIComponent(id)}`, body })
  }

  /** @param waitMs how long the gateway waits for its brokers to confirm, 0 for not at all */
  revokeDevice(id: string, reason: RevocationReason, waitMs: number): Promise<RevocationReceipt> {
    const path = `/v1/devices/${encodeURIComponent(id)}/revoke`
    return this.#call(revocationReceipt, { method: 'POST', path, body: { reason, waitMs }, waitMs })
  }

  listIncidents({ deviceId, open }: { deviceId: string | undefined; open: boolean }): Promise<IncidentView[]> {
    return this.#pages(incidentView, '/v1/incidents', { ...(deviceId && { deviceId }), open: String(open) })
  }

  getIncident(id: string): Promise<IncidentView> {
    return this.#call(incidentView, { method: 'GET', path: `/v1/incidents/${encodeURIComponent(id)}` })
  }

  closeIncident(id: string, note: string): Promise<IncidentView> {
    const path = `/v1/incidents/${encodeURIComponent(id)}/close`
    return this.#call(incidentView, { method: 'POST', path, body: { note } })
  }

  disableDevice(id: string, waitMs: number): Promise<HoldReceipt> {
    const path = `/v1/devices/${encodeURIComponent(id)}/disable`
    return this.#call(holdReceipt, { method: 'POST', path, body: { waitMs }, waitMs })
  }

  enableDevice(id: string, waitMs: number): Promise<HoldReceipt> {
    const path = `/v1/devices/${encodeURIComponent(id)}/enable`
    return this.#call(holdReceipt, { method: 'POST', path, body: { waitMs }, waitMs })
  }

  revokeCertificate(serial: string, reason: RevocationReason, waitMs: number): Promise<CertificateReceipt> {
    const path = `/v1/certificates/${encodeURIComponent(serial)}/revoke`
    return this.#call(certificateReceipt, { method: 'POST', path, body: { reason, waitMs }, waitMs })
  }

  changeDevices(body: ChangeDevices): Promise<BulkReceipt> {
    const waitMs = body.waitMs ?? 0
    return this.#call(bulkReceipt, { method: 'POST', path: '/v1/devices/bulk', body, waitMs })
  }

  reportStolen(id: string, waitMs: number): Promise<TheftReceipt> {
    const path = `/v1/devices/${encodeURIComponent(id)}/stolen`
    return this.#call(theftReceipt, { method: 'POST', path, body: { waitMs }, waitMs })
  }

  readmitDevice(id: string, body: ReadmitDevice): Promise<DeviceView> {
    return this.#call(deviceView, { method: 'POST', path: `/v1/devices/${encodeURIComponent(id)}/readmit`, body })
  }

  createToken(body: CreateToken): Promise<TokenView> {
    return this.#call(tokenView, { method: 'POST', path: '/v1/tokens', body })
  }

  allowLateRenewal(id: string, body: AllowLateRenewal): Promise<LateRenewalView> {
    return this.#call(lateRenewalView, { method: 'PUT', path: `/v1/late-renewals/${encodeURIComponent(id)}`, body })
  }

  withdrawLateRenewal(id: string): Promise<LateRenewalView> {
    return this.#call(lateRenewalView, { method: 'DELETE', path: `/v1/late-renewals/${encodeURIComponent(id)}` })
  }

  listLateRenewals(): Promise<LateRenewalView[]> {
    return this.#pages(lateRenewalView, '/v1/late-renewals', {})
  }

  listApprovals(query: { decision?: string }): Promise<ApprovalView[]> {
    return this.#pages(approvalView, '/v1/approvals', query)
  }

  getApproval(id: string): Promise<ApprovalView> {
    return this.#call(approvalView, { method: 'GET', path: `/v1/approvals/${encodeURIComponent(id)}` })
  }

  approve(id: string, body: ApproveRequest): Promise<ApprovalView> {
    return this.#call(approvalView, { method: 'POST', path: `/v1/approvals/${encodeURIComponent(id)}/approve`, body })
  }

  deny(id: string, body: DenyRequest): Promise<ApprovalView> {
    return this.#call(approvalView, { method: 'POST', path: `/v1/approvals/${encodeURIComponent(id)}/deny`, body })
  }

  listCertificates(query: {
    deviceId?: string
    issuer?: string
    issuedFrom?: string
    issuedTo?: string
    expiresInMs?: number
  }): Promise<CertificateView[]> {
    return this.#pages(certificateView, '/v1/certificates', query)
  }

  registerCertificate(body: RegisterCertificate): Promise<CertificateView> {
    return this.#call(certificateView, { method: 'POST', path: '/v1/certificates', body })
  }

  getCertificate(serial: string): Promise<CertificateView> {
    return this.#call(certificateView, { method: 'GET', path: `/v1/certificates/${encodeURIComponent(serial)}` })
  }

  getPolicy(): Promise<PolicyView> {
    return this.#call(policyView, { method: 'GET', path: '/v1/policy' })
  }

  applyPolicy(body: PolicyDocument): Promise<PolicyView> {
    return this.#call(policyView, { method: 'PUT', path: '/v1/policy', body })
  }

  listDenials(query: { deviceId?: string | undefined; limit: number }): Promise<DenialPage> {
    return this.#call(denialPage, { method: 'GET', path: '/v1/denials', query })
  }

  getDenial(id: string): Promise<Denial> {
    return this.#call(denialView, { method: 'GET', path: `/v1/denials/${encodeURIComponent(id)}` })
  }

  /** All of them, page by page, and each broker that was missing on any page. */
  async listSessions(query: { deviceIds?: string[]; broker?: string; listener?: string }): Promise<SessionPage> {
    const { deviceIds, broker, listener } = query
    const items: SessionPage['items'] = []
    const unheard = new Map<string, Unheard>()
    for (let after: string | undefined; ; ) {
      const part = await this.#call(sessionPage, {
        method: 'GET',
        path: '/v1/sessions',
        query: { deviceId: deviceIds?.join(','), broker, listener, after, limit: sessionsAtOnce },
      })
      items.push(...part.items)
      for (const one of part.unheard) unheard.set(one.broker, one)
      if (part.next === undefined) return { items, unheard: [...unheard.values()] }
      after = part.next
    }
  }

  kickSession(body: KickSession): Promise<KickReceipt> {
    return this.#call(kickReceipt, { method: 'POST', path: '/v1/sessions/kick', body })
  }

  listAudit(query: { after?: number; limit: number; waitMs?: number }, signal?: AbortSignal): Promise<AuditPage> {
    return this.#call(auditPage, { method: 'GET', path: '/v1/audit', query, waitMs: query.waitMs ?? 0, signal })
  }

  async #pages<T extends z.ZodType>(item: T, path: string, query: Query): Promise<z.output<T>[]> {
    const page = z.object({ items: z.array(item), next: z.string().optional() }) satisfies ReturnType<typeof pageOf<T>>
    const items: z.output<T>[] = []
    for (let after: string | undefined; ; ) {
      const part = await this.#call(page, { method: 'GET', path, query: { ...query, after, limit: pageSize } })
      items.push(...part.items)
      if (part.next === undefined) return items
      after = part.next
    }
  }

  async #call<T extends z.ZodType>(schema: T, call: Call): Promise<z.output<T>> {
    const headers: Record<string, string> = { accept: 'application/json' }
    if (call.body !== undefined) headers['content-type'] = 'application/json'
    if (call.method !== 'GET') headers['idempotency-key'] = randomUUID()
    let answer: Answer
    try {
      answer = await this.#send(call, headers)
    } catch (error) {
      // The connection broke and the outcome is unknown: the same key asks for the same answer, so once more is safe.
      if (!isBroken(error)) throw this.#unavailable(error)
      answer = await this.#send(call, headers).catch((again) => {
        throw this.#unavailable(again)
      })
    }
    if (answer.status >= 400) throw problemOf(answer)
    try {
      return schema.parse(JSON.parse(answer.text))
    } catch (cause) {
      throw new FleetError('internal', `the gateway's answer to ${call.method} ${call.path} is not of this version`, {
        cause,
      })
    }
  }

  #send(call: Call, headers: Record<string, string>): Promise<Answer> {
    const url = new URL(call.path, this.#base)
    for (const [name, value] of Object.entries(call.query ?? {})) {
      if (value !== undefined) url.searchParams.set(name, String(value))
    }
    const body = call.body === undefined ? undefined : JSON.stringify(call.body)
    const timeout = AbortSignal.timeout(answerTimeoutMs + (call.waitMs ?? 0))
    const signal = call.signal === undefined ? timeout : AbortSignal.any([timeout, call.signal])
    return new Promise((resolve, reject) => {
      const sent = request(url, { agent: this.#agent, method: call.method, headers, signal }, (response) => {
        const chunks: Buffer[] = []
        let bytes = 0
        response.on('data', (chunk: Buffer) => {
          chunks.push(chunk)
          bytes += chunk.length
          if (bytes > maxAnswerBytes) sent.destroy(new Error(`the answer is larger than ${maxAnswerBytes} bytes`))
        })
        response.on('error', reject)
        response.on('end', () =>
          resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString('utf8') }),
        )
      })
      sent.on('error', (error) => reject(timeout.aborted ? timeout.reason : error))
      sent.end(body)
    })
  }

  #unavailable(cause: unknown): FleetError {
    const { code, message } = cause as NodeJS.ErrnoException
    const where = `the gateway at ${this.#base.origin}`
    const start = `is it running? start it: ${commandLine(['up'], this.#dataDir)}`
    if (code === 'ECONNREFUSED')
      return new FleetError('unavailable', `${where} refuses connections; ${start}`, { cause })
    if (isBroken(cause)) return new FleetError('unavailable', `${where} broke the connection; ${start}`, { cause })
    if ((cause as Error).name === 'TimeoutError') {
      return new FleetError('unavailable', `${where} has not answered in time; look at its log, then try again`, {
        cause,
      })
    }
    return new FleetError('unavailable', `${where} cannot be used: ${message}`, { cause })
  }
}

const isBroken = (error: unknown): boolean =>
  ['ECONNRESET', 'EPIPE', 'ECONNABORTED'].includes((error as NodeJS.ErrnoException).code ?? '')

const problemBody = z.looseObject({
  code: z.string().optional(),
  title: z.string().optional(),
  detail: z.string().optional(),
})

function problemOf({ status, text }: Answer): FleetError {
  let body: z.output<typeof problemBody> = {}
  try {
    body = problemBody.parse(JSON.parse(text))
  } catch {
    // Not a problem document: the status is all there is.
  }
  const known = body.code !== undefined && Object.hasOwn(problems, body.code)
  const code = known ? (body.code as ProblemCode) : status < 500 ? 'request_malformed' : 'internal'
  const detail = body.detail ?? body.title ?? `the gateway answered ${status}`
  return new FleetError(code, detail, { context: { status, refused: status < 500 } })
}

function readFile(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (cause) {
    throw new FleetError('data_damaged', `${path} cannot be read: ${(cause as Error).message}`, { cause })
  }
}
