import { createHash } from 'node:crypto'
import type { AuditFact } from './audit-log.ts'
import type { Stored } from './engine.ts'
import type { Page, Paging, Registry, Write } from './registry.ts'

export type IncidentKind = 'stolen' | 'clone' | 'key_reused'

/** One thing that was seen, in the order in which it was heard of. */
export type IncidentEvidence = {
  at: string
  /** noun.pastTense, as in the audit log: `device.stolen`, `session.cut`, `key.used` */
  what: string
  /** `enroll`, or the id of the broker that saw it */
  by: string
  remoteAddress?: string
  details?: NonNullable<AuditFact['details']>
}

/** Something about a device that a person has to look at. */
export type IncidentRecord = {
  id: string
  kind: IncidentKind
  deviceId: string
  openedAt: string
  /** As in the audit log: `operator:<cn>`, `system` */
  openedBy: string
  evidence: IncidentEvidence[]
  /** How much of the middle of the evidence is not kept. */
  leftOut?: number
  closedAt?: string
  closedBy?: string
  /** Of whoever closed it. */
  note?: string
}

/** The same incident has the same id, whoever opens it how often: 12 lower-case hex digits. */
export const incidentIdOf = ({ kind, deviceId, openedAt }: Pick<IncidentRecord, 'kind' | 'deviceId' | 'openedAt'>) =>
  createHash('sha256').update(`${kind} ${deviceId} ${openedAt}`).digest('hex').slice(0, 12)

export const findIncident = (registry: Registry, id: string): Promise<Stored<IncidentRecord> | undefined> =>
  registry.find('incident', id)

/** In order of id, closed ones too unless those that are open are asked for. */
export const listIncidents = (
  registry: Registry,
  {
    deviceId,
    kind,
    open = false,
    ...paging
  }: { deviceId?: string | undefined; kind?: IncidentKind | undefined; open?: boolean } & Paging,
): Promise<Page<IncidentRecord>> =>
  registry.list(
    'incident',
    deviceId === undefined ? { kind: 'incident' } : { index: 'incident.device', value: deviceId },
    paging,
    (incident) => (!open || incident.closedAt === undefined) && (kind === undefined || incident.kind === kind),
  )

/** @param expect the revision it was read at; 0: it must not exist */
export const writeIncident = (doc: IncidentRecord, expect: number): Write => ({
  kind: 'incident',
  id: doc.id,
  expect,
  doc,
})
