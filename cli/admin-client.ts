import type { IncomingMessage } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import type { z } from 'zod'
import {
  type AllowanceView,
  type AllowDevices,
  type ApprovalView,
  type ApproveRequest,
  allowanceView,
  allowReceipt,
  approvalView,
  type CertificateReceipt,
  type CertificateView,
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
  type listApprovals,
  type listCertificates,
  type listDevices,
  type listTokens,
  type PolicyView,
  policyView,
  type ReadmitDevice,
  type RegisterCertificate,
  type RevocationReceipt,
  revocationReceipt,
  type StatusView,
  statusView,
  type TheftReceipt,
  type TokenRecordView,
  type TokenView,
  theftReceipt,
  tokenRecordView,
  tokenView,
} from '../contract/admin-api.ts'
import {
  type AboutPage,
  type AuditPage,
  type AuditQuery,
  type AuditSeal,
  type AuditView,
  aboutPage,
  auditPage,
  auditSeal,
  auditView,
  type ChainPage,
  chainPage,
} from '../contract/audit-api.ts'
import { type AuthorityView, authorityList } from '../contract/authority-api.ts'
import {
  type BrokerCredential,
  type BrokerForgotten,
  type BrokerView,
  brokerCredential,
  brokerForgotten,
  brokerList,
  type CreateBroker,
} from '../contract/broker-api.ts'
import {
  type BulkReceipt,
  bulkReceipt,
  type ChangeDevices,
  type ForeseenChange,
  foreseenChange,
} from '../contract/bulk-api.ts'
import { type CredentialReceipt, credentialReceipt, type RevokeCredential } from '../contract/credential-api.ts'
import { type CrlPage, crlPage, type PublishReceipt, publishReceipt } from '../contract/crl-api.ts'
import { type Denial, denialView } from '../contract/denials.ts'
import type { RevocationReason } from '../contract/ids.ts'
import { type IncidentView, incidentView } from '../contract/incidents.ts'
import { type AllowLateRenewal, type LateRenewalView, lateRenewalView } from '../contract/late-renewal-api.ts'
import { sessionsAtOnce } from '../contract/live-sessions.ts'
import {
  type ApiTokenView,
  apiTokenView,
  type ChangeOperator,
  type CreateApiToken,
  type CreateOperator,
  type NewApiToken,
  newApiToken,
  type OperatorCredential,
  type OperatorView,
  operatorCredential,
  operatorView,
  type RemovedOperator,
  type RenewOperator,
  removedOperator,
} from '../contract/operator-api.ts'
import type { PolicyDocument } from '../contract/policy-document.ts'
import {
  type EndedCount,
  endedCount,
  type KickReceipt,
  type KickSession,
  kickReceipt,
  type SessionPage,
  sessionPage,
  type Unheard,
} from '../contract/session-api.ts'
import { type VerificationView, type VerifyCertificate, verificationView } from '../contract/verify-api.ts'
import { type Endpoints, readEndpoints } from '../runtime/endpoints.ts'
import { AdminConnection, type Call, type Query } from './admin-connection.ts'

/** Finds the gateway that runs on `dataDir` and its operator credential. */
export function openAdminClient(dataDir: string): AdminClient {
  return new AdminClient(readEndpoints(dataDir), dataDir)
}

const reconnectMs = 1_000

async function all<T>(pages: AsyncIterable<T[]>): Promise<T[]> {
  const items: T[] = []
  for await (const page of pages) items.push(...page)
  return items
}

/** What a list may be asked for; those that are undefined are not asked. */
type Filter<S extends z.ZodObject> = Partial<Record<Exclude<keyof S['shape'], 'cursor' | 'limit'>, Query[string]>>

/** The admin API, one method for each thing that it can be asked; each throws what `AdminConnection` does. */
export class AdminClient implements Disposable {
  readonly #connection: AdminConnection

  constructor(endpoints: Endpoints, dataDir: string) {
    this.#connection = new AdminConnection(endpoints, dataDir)
  }

  [Symbol.dispose](): void {
    this.#connection[Symbol.dispose]()
  }

  status(): Promise<StatusView> {
    return this.#call(statusView, { method: 'GET', path: '/v1/status' })
  }

  async listBrokers(): Promise<BrokerView[]> {
    return (await this.#call(brokerList, { method: 'GET', path: '/v1/brokers' })).items
  }

  createBroker(body: CreateBroker): Promise<BrokerCredential> {
    return this.#call(brokerCredential, { method: 'POST', path: '/v1/brokers', body })
  }

  forgetBroker(id: string): Promise<BrokerForgotten> {
    return this.#call(brokerForgotten, { method: 'DELETE', path: `/v1/brokers/${encodeURIComponent(id)}` })
  }

  async listAuthorities(): Promise<AuthorityView[]> {
    return (await this.#call(authorityList, { method: 'GET', path: '/v1/authorities' })).items
  }

  listCrls(): Promise<CrlPage> {
    return this.#call(crlPage, { method: 'GET', path: '/v1/crls' })
  }

  publishCrls(): Promise<PublishReceipt> {
    return this.#call(publishReceipt, { method: 'POST', path: '/v1/crls/publish', body: {}, waitMs: 20_000 })
  }

  createDevice(body: CreateDevice): Promise<DeviceView> {
    return this.#call(deviceView, { method: 'POST', path: '/v1/devices', body })
  }

  pagesOfDevices(filter: Filter<typeof listDevices>): AsyncGenerator<DeviceView[]> {
    return this.#connection.pages(deviceView, '/v1/devices', filter)
  }

  listDevices(filter: Filter<typeof listDevices>): Promise<DeviceView[]> {
    return all(this.pagesOfDevices(filter))
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

  revokeCredential(serial: string, body: RevokeCredential): Promise<CredentialReceipt> {
    const path = `/v1/credentials/${encodeURIComponent(serial)}/revoke`
    return this.#call(credentialReceipt, { method: 'POST', path, body, waitMs: body.waitMs ?? 0 })
  }

  changeDevices(body: ChangeDevices): Promise<BulkReceipt> {
    const waitMs = body.waitMs ?? 0
    return this.#call(bulkReceipt, { method: 'POST', path: '/v1/devices/bulk', body, waitMs })
  }

  foreseeChange(verb: ChangeDevices['verb'], deviceIds: readonly string[]): Promise<ForeseenChange> {
    const query = { verb, deviceId: deviceIds.join(',') }
    return this.#call(foreseenChange, { method: 'GET', path: '/v1/foreseen', query })
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

  pagesOfTokens(filter: Filter<typeof listTokens>): AsyncGenerator<TokenRecordView[]> {
    return this.#connection.pages(tokenRecordView, '/v1/tokens', filter)
  }

  listApprovals(filter: Filter<typeof listApprovals>): Promise<ApprovalView[]> {
    return this.#pages(approvalView, '/v1/approvals', filter)
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

  pagesOfCertificates(filter: Filter<typeof listCertificates>): AsyncGenerator<CertificateView[]> {
    return this.#connection.pages(certificateView, '/v1/certificates', filter)
  }

  listCertificates(filter: Filter<typeof listCertificates>): Promise<CertificateView[]> {
    return all(this.pagesOfCertificates(filter))
  }

  registerCertificate(body: RegisterCertificate): Promise<CertificateView> {
    return this.#call(certificateView, { method: 'POST', path: '/v1/certificates', body })
  }

  getCertificate(serial: string): Promise<CertificateView> {
    return this.#call(certificateView, { method: 'GET', path: `/v1/certificates/${encodeURIComponent(serial)}` })
  }

  verifyCertificate(body: VerifyCertificate): Promise<VerificationView> {
    return this.#call(verificationView, { method: 'POST', path: '/v1/certificates/verify', body })
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

  /** @param since the time that the change of these devices was answered with */
  countEnded(deviceIds: readonly string[], since: string): Promise<EndedCount> {
    const query = { deviceId: deviceIds.join(','), since }
    return this.#call(endedCount, { method: 'GET', path: '/v1/sessions/ended', query })
  }

  kickSession(body: KickSession): Promise<KickReceipt> {
    return this.#call(kickReceipt, { method: 'POST', path: '/v1/sessions/kick', body })
  }

  listAudit(query: AuditQuery, signal?: AbortSignal): Promise<AuditPage> {
    return this.#call(auditPage, { method: 'GET', path: '/v1/audit', query, waitMs: query.waitMs ?? 0, signal })
  }

  async listAuditAbout(query: { device?: string; serial?: string; fingerprint?: string }): Promise<AboutPage> {
    const items: AboutPage['items'] = []
    for (let after: string | undefined; ; ) {
      const call = { method: 'GET', path: '/v1/audit/about', query: { ...query, after, limit: 1_000 } } as const
      const page = await this.#call(aboutPage, call)
      items.push(...page.items)
      if (page.next === undefined) return { about: page.about, items }
      after = page.next
    }
  }

  sealAudit(query: { since?: string; until?: string }): Promise<AuditSeal> {
    return this.#call(auditSeal, { method: 'GET', path: '/v1/audit/seal', query })
  }

  readAuditChain(after: number): Promise<ChainPage> {
    return this.#call(chainPage, { method: 'GET', path: '/v1/audit/chain', query: { after } })
  }

  listOperators(): Promise<OperatorView[]> {
    return this.#pages(operatorView, '/v1/operators', {})
  }

  getOperator(name: string): Promise<OperatorView> {
    return this.#call(operatorView, { method: 'GET', path: `/v1/operators/${encodeURIComponent(name)}` })
  }

  createOperator(body: CreateOperator): Promise<OperatorCredential> {
    return this.#call(operatorCredential, { method: 'POST', path: '/v1/operators', body })
  }

  renewOperator(name: string, body: RenewOperator): Promise<OperatorCredential> {
    return this.#call(operatorCredential, {
      method: 'POST',
      path: `/v1/operators/${encodeURIComponent(name)}/renew`,
      body,
    })
  }

  changeOperator(name: string, body: ChangeOperator): Promise<OperatorView> {
    return this.#call(operatorView, { method: 'PATCH', path: `/v1/operators/${encodeURIComponent(name)}`, body })
  }

  removeOperator(name: string): Promise<RemovedOperator> {
    return this.#call(removedOperator, { method: 'DELETE', path: `/v1/operators/${encodeURIComponent(name)}` })
  }

  /** @returns the number of records (uint32), then what is sealed with the key; contract/backup.ts */
  createBackup(key: Buffer): Promise<IncomingMessage> {
    return this.#connection.download('/v1/backups', { key: key.toString('base64') })
  }

  listApiTokens(): Promise<ApiTokenView[]> {
    return this.#pages(apiTokenView, '/v1/api-tokens', {})
  }

  createApiToken(body: CreateApiToken): Promise<NewApiToken> {
    return this.#call(newApiToken, { method: 'POST', path: '/v1/api-tokens', body })
  }

  removeApiToken(name: string): Promise<ApiTokenView> {
    return this.#call(apiTokenView, { method: 'DELETE', path: `/v1/api-tokens/${encodeURIComponent(name)}` })
  }

  /** Entries of the audit log as they are written, until `stop`; it goes on where it was when the connection breaks. */
  async *followEvents(since: number | undefined, stop: AbortSignal): AsyncGenerator<AuditView> {
    for (let after = since; !stop.aborted; ) {
      for await (const data of this.#connection.follow('/v1/events', after, stop)) {
        const entry = auditView.parse(data)
        yield entry
        after = entry.seq
      }
      await sleep(reconnectMs, undefined, { signal: stop }).catch(() => {})
    }
  }

  #pages<T extends z.ZodType>(item: T, path: string, query: Query): Promise<z.output<T>[]> {
    return all(this.#connection.pages(item, path, query))
  }

  #call<T extends z.ZodType>(schema: T, call: Call): Promise<z.output<T>> {
    return this.#connection.call(schema, call)
  }
}
