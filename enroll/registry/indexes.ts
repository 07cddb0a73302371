/** What records there are and by what they can be found. */
import { type AllowanceRecord, serialEntry } from './allowances.ts'
import type { ApiTokenRecord } from './api-tokens.ts'
import { type ApprovalRecord, isOpen } from './approvals.ts'
import type { BrokerRecord } from './brokers.ts'
import { type CertificateRecord, instant, isListed, isOwn } from './certificates.ts'
import type { AuditStateRecord, CheckpointRecord } from './checkpoints.ts'
import type { ClaimRecord } from './claims.ts'
import type { CutsRecord } from './cuts.ts'
import type { DenialRecord } from './denials.ts'
import type { DeviceRecord } from './devices.ts'
import { type Changes, entryId, type IndexEntry } from './engine.ts'
import type { FeedForksRecord } from './feed-forks.ts'
import type { HierarchyRecord } from './hierarchies.ts'
import type { IncidentRecord } from './incidents.ts'
import type { LateRenewalRecord } from './late-renewals.ts'
import type { OperatorRecord } from './operators.ts'
import type { PolicyRecord } from './policies.ts'
import type { RevocationListRecord } from './revocation-lists.ts'
import type { TokenRecord } from './tokens.ts'
import type { WatchedKeyRecord } from './watched-keys.ts'

/** The answer that a request id was given. */
export type RequestRecord = { at: string; digest?: string; auditSeq: number; feedSeq: number; count?: number }

export type RecordTypes = {
  device: DeviceRecord
  certificate: CertificateRecord
  token: TokenRecord
  apiToken: ApiTokenRecord
  approval: ApprovalRecord
  allowance: AllowanceRecord
  claim: ClaimRecord
  cuts: CutsRecord
  incident: IncidentRecord
  watchedKey: WatchedKeyRecord
  broker: BrokerRecord
  denial: DenialRecord
  feedForks: FeedForksRecord
  operator: OperatorRecord
  policy: PolicyRecord
  hierarchy: HierarchyRecord
  lateRenewal: LateRenewalRecord
  revocationList: RevocationListRecord
  checkpoint: CheckpointRecord
  auditState: AuditStateRecord
  request: RequestRecord
}
export type RecordKind = keyof RecordTypes

export const fingerprintEntry = (value: string): IndexEntry => ({ index: 'certificate.fingerprint', value })

const table: { [K in RecordKind]: (doc: RecordTypes[K]) => IndexEntry[] } = {
  device: ({ groups, profile, status, factoryKeys = [] }) => [
    ...[...new Set(groups)].map((value) => ({ index: 'device.group', value })),
    { index: 'device.profile', value: profile },
    { index: 'device.status', value: status },
    ...factoryKeys.map((value) => ({ index: 'device.factoryKey', value })),
  ],
  certificate: (certificate) => {
    const { deviceId, notAfter, supersedesAt, noticeAt, fingerprint } = certificate
    const entries: IndexEntry[] = []
    if (deviceId !== undefined) entries.push({ index: 'certificate.device', value: deviceId })
    if (notAfter !== undefined) entries.push({ index: 'certificate.notAfter', value: instant(notAfter) })
    if (supersedesAt !== undefined) entries.push({ index: 'certificate.supersedesAt', value: supersedesAt })
    if (noticeAt !== undefined) entries.push({ index: 'certificate.noticeAt', value: noticeAt })
    if (fingerprint !== undefined) entries.push(fingerprintEntry(fingerprint))
    if (isListed(certificate)) entries.push({ index: 'certificate.status', value: certificate.status })
    if (isOwn(certificate)) entries.push({ index: 'certificate.own', value: certificate.kind })
    return entries
  },
  token: ({ deviceId }) => [{ index: 'token.device', value: deviceId }],
  apiToken: () => [],
  approval: (approval) => [
    { index: 'approval.decision', value: approval.decision },
    { index: 'approval.expiresAt', value: approval.expiresAt },
    ...(isOpen(approval) ? [{ index: 'approval.device', value: approval.deviceId }] : []),
    ...(approval.decision === 'pending' ? [{ index: 'approval.network', value: approval.network }] : []),
  ],
  allowance: ({ deviceId, serial }) => [{ index: 'allowance.device', value: deviceId }, serialEntry(serial)],
  claim: () => [],
  cuts: () => [],
  incident: ({ deviceId }) => [{ index: 'incident.device', value: deviceId }],
  watchedKey: () => [],
  broker: () => [],
  denial: () => [],
  feedForks: () => [],
  operator: () => [],
  policy: () => [],
  hierarchy: () => [],
  lateRenewal: () => [],
  revocationList: () => [],
  checkpoint: ({ seq }) => [{ index: 'checkpoint.seq', value: entryId(seq) }],
  auditState: () => [],
  request: ({ at }) => [{ index: 'request.at', value: at }],
}

const indexesOf = <K extends RecordKind>(kind: K, doc: RecordTypes[K]): IndexEntry[] => table[kind](doc)

/** From `old` to `now`; where it `reindexes`, what is there already is written again. */
export function indexChanges<K extends RecordKind>(
  kind: K,
  id: string,
  old: RecordTypes[K] | undefined,
  now: RecordTypes[K] | undefined,
  reindexes = false,
): Changes['indexed'] {
  const gone = old === undefined ? [] : indexesOf(kind, old)
  const there = now === undefined ? [] : indexesOf(kind, now)
  const isNew = (entry: IndexEntry): boolean => reindexes || !hasEntry(gone, entry)
  return [
    ...gone.filter((entry) => !hasEntry(there, entry)).map((entry) => ({ ...entry, id, present: false })),
    ...there.filter(isNew).map((entry) => ({ ...entry, id, present: true })),
  ]
}

const hasEntry = (entries: readonly IndexEntry[], { index, value }: IndexEntry): boolean =>
  entries.some((entry) => entry.index === index && entry.value === value)
