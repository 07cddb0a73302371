import { FleetError } from '../../runtime/errors.ts'
import type { Asked } from '../registry/asked.ts'
import {
  findIncident,
  type IncidentEvidence,
  type IncidentKind,
  type IncidentRecord,
  incidentIdOf,
  listIncidents,
  writeIncident,
} from '../registry/incidents.ts'
import { type Registry, readAll, untilNoConflict, type Write } from '../registry/registry.ts'

/** Of what comes in a storm, as from a thief who goes on trying, the first and the last are told. */
const maxEvidence = 200

/**
 * What adds to the open incident of this kind about a device, or to that of its theft, for the batch of the fact itself.
 *
 * @param opens where there is none, one is opened; otherwise nothing is noted
 */
export async function noteEvidence(
  registry: Registry,
  about: { kind: IncidentKind; deviceId: string; evidence: IncidentEvidence; opens: boolean; now: Date },
): Promise<{ incident: string | undefined; writes: Write[] }> {
  const { kind, deviceId, evidence, opens, now } = about
  const open = await readAll((paging) => listIncidents(registry, { deviceId, open: true, ...paging }))
  const found = open.find(({ doc }) => doc.kind === kind) ?? open.find(({ doc }) => doc.kind === 'stolen')
  if (found !== undefined) {
    return { incident: found.doc.id, writes: [writeIncident(withEvidence(found.doc, evidence), found.rev)] }
  }
  if (!opens) return { incident: undefined, writes: [] }
  const openedAt = now.toISOString()
  const id = incidentIdOf({ kind, deviceId, openedAt })
  const opened: IncidentRecord = { id, kind, deviceId, openedAt, openedBy: 'system', evidence: [evidence] }
  return { incident: id, writes: [writeIncident(opened, 0)] }
}

function withEvidence(doc: IncidentRecord, evidence: IncidentEvidence): IncidentRecord {
  const all = [...doc.evidence, evidence]
  if (all.length <= maxEvidence) return { ...doc, evidence: all }
  return { ...doc, evidence: all.toSpliced(maxEvidence / 2, 1), leftOut: (doc.leftOut ?? 0) + 1 }
}

/** @throws FleetError `not_found` */
export async function getIncident(registry: Registry, id: string) {
  const found = await findIncident(registry, id)
  if (found === undefined) throw new FleetError('not_found', `there is no incident ${id}`)
  return found
}

/**
 * Somebody has dealt with it. One that is closed stays as it is; what is seen from then on opens another.
 *
 * @throws FleetError `not_found`
 */
export function closeIncident(registry: Registry, id: string, note: string, asked: Asked): Promise<IncidentRecord> {
  const { actor, remoteAddress, requestId, digest, now } = asked
  return untilNoConflict(async () => {
    const { doc, rev } = await getIncident(registry, id)
    if (doc.closedAt !== undefined) return doc
    const closed = { ...doc, closedAt: now.toISOString(), closedBy: actor, note }
    await registry.commit({
      requestId: `${requestId}-close`,
      digest,
      writes: [writeIncident(closed, rev)],
      audit: [
        {
          action: 'incident.closed',
          actor,
          subject: `device:${doc.deviceId}`,
          outcome: 'done',
          details: { incident: id, kind: doc.kind, note },
          remoteAddress,
          requestId,
        },
      ],
      at: now,
    })
    return closed
  })
}
