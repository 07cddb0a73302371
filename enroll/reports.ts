import type {
  Alert,
  BrokerReport,
  CertificateUsed,
  RevocationKept,
  SessionCut,
  VerdictReached,
} from '../contract/broker-reports.ts'
import type { ProblemCode } from '../contract/problems.ts'
import type { Alerts } from './alerts.ts'
import { noteEvidence } from './ca/incidents.ts'
import { noteUse } from './ca/supersession.ts'
import type { CloneDesk, Shown } from './clone-desk.ts'
import type { Reported } from './feed-server.ts'
import type { AuditFact } from './registry/audit-log.ts'
import { findCertificate } from './registry/certificates.ts'
import { findCuts, writeCut } from './registry/cuts.ts'
import { findDevice } from './registry/devices.ts'
import { type Registry, untilNoConflict } from './registry/registry.ts'

// All connections of one device end at once, and each is written for itself.
const attempts = 100

type Said<R extends BrokerReport> = { broker: string; requestId: string; report: R }
type ReportsOptions = {
  registry: Registry
  alerts: Alerts
  clones: CloneDesk
  overlapMs: number
  clock: () => Date
}

/** Takes what brokers report. A report that comes again has no second effect: its id is the request's. */
export function createReportDesk({
  registry,
  alerts,
  clones,
  overlapMs,
  clock,
}: ReportsOptions): (reported: Reported) => Promise<void> {
  /** @param heardAt when it came; it may have to be written more than once */
  async function cut({ broker, requestId, report }: Said<SessionCut>, heardAt: Date): Promise<void> {
    const { type: _type, deviceId, ...rest } = report
    const audit: AuditFact = {
      action: 'session.cut',
      actor: `broker:${broker}`,
      subject: subjectOf(report),
      outcome: 'done',
      reason: report.reason as ProblemCode,
      details: detailsOf(report),
      remoteAddress: report.remoteAddress,
      requestId,
    }
    await untilNoConflict(async () => {
      // A broker may name any device; those that there are are as many as they are.
      const isKnown = deviceId !== undefined && (await findDevice(registry, deviceId)) !== undefined
      const ended = { ...rest, broker, heardAt: heardAt.toISOString() }
      const cuts = isKnown ? [writeCut(deviceId, ended, await findCuts(registry, deviceId))] : []
      const { writes } = await evidenceOf(audit, report, broker, heardAt)
      await registry.commit({ requestId, writes: [...cuts, ...writes], audit: [audit], at: heardAt })
    }, attempts)
    if (report.state !== 'live') return
    const ended = await ownOf(report)
    if (ended?.revocationReason !== 'superseded') return
    await clones.outlived(
      ended,
      'its session was still there at the end of the overlap',
      shownIn(broker, requestId, report),
    )
  }

  /** The certificate that a report is about; another CA may have given the same number to one of its own. */
  async function ownOf({ serial, fingerprint }: Partial<Record<'serial' | 'fingerprint', string | undefined>>) {
    const known = serial === undefined ? undefined : await findCertificate(registry, serial)
    return known?.doc.fingerprint === fingerprint ? known?.doc : undefined
  }

  /** Of a theft it is evidence; otherwise it is an end as any other. */
  async function evidenceOf(
    { details = {} }: AuditFact,
    { deviceId, at, remoteAddress }: SessionCut,
    by: string,
    now: Date,
  ) {
    if (deviceId === undefined) return { writes: [] }
    const evidence = { at, what: 'session.cut', by, remoteAddress, details }
    return noteEvidence(registry, { kind: 'stolen', deviceId, evidence, opens: false, now })
  }

  async function alerted({ broker, requestId, report }: Said<Alert>): Promise<void> {
    const { kind, deviceId, remoteAddress, at } = report
    await alerts.raise({ kind, deviceId, remoteAddress, by: broker, requestId, at, details: detailsOf(report) })
    if (kind === 'clone' && deviceId !== undefined)
      await clones.hold(deviceId, { by: broker, remoteAddress, requestId })
  }

  async function judged({ broker, requestId, report }: Said<VerdictReached>): Promise<void> {
    const { action, reason, remoteAddress } = report
    const audit: AuditFact = {
      action: judgements[action],
      actor: `broker:${broker}`,
      subject: subjectOf(report),
      outcome: action === 'reject' ? 'refused' : 'done',
      reason: reason as ProblemCode,
      details: detailsOf(report),
      remoteAddress,
      requestId,
    }
    await registry.commit({ requestId, writes: [], audit: [audit], at: clock() })
    // Whoever was answered with it never came; somebody else was answered, or has what the device had.
    const shown = reason === 'certificate_revoked' ? await ownOf(report) : undefined
    if (shown?.revocationReason !== 'superseded' || shown.firstUsedAt !== undefined) return
    await clones.outlived(shown, 'it was never used before it was replaced', shownIn(broker, requestId, report))
  }

  /** From its first session on it is certain that the device has the certificate. */
  async function used({ broker, requestId, report }: Said<CertificateUsed>): Promise<void> {
    const { serial, remoteAddress, at } = report
    if ((await ownOf(report)) === undefined) return
    const by = { actor: `broker:${broker}`, remoteAddress, requestId }
    const fork = await noteUse(registry, { serial, at: new Date(at), ...by, overlapMs, now: clock() })
    if (fork !== undefined) await clones.forked(fork, shownIn(broker, requestId, report))
  }

  /** A broker revokes nobody; who reads the audit log does it again. */
  async function kept({ broker, requestId, report }: Said<RevocationKept>): Promise<void> {
    const { deviceId, status, at, certificates } = report
    const audit: AuditFact = {
      action: 'revocation.kept',
      actor: `broker:${broker}`,
      subject: `device:${deviceId}`,
      outcome: 'done',
      details: { status, at, certificates: certificates.map(({ fingerprint, reason }) => `${fingerprint} ${reason}`) },
      requestId,
    }
    await registry.commit({ requestId, writes: [], audit: [audit], at: clock() })
  }

  return async ({ broker, id, report }) => {
    const requestId = `report-${broker}-${id}`
    switch (report.type) {
      case 'session.cut':
        return cut({ broker, requestId, report }, clock())
      case 'certificate.used':
        return used({ broker, requestId, report })
      case 'alert':
        return alerted({ broker, requestId, report })
      case 'verdict':
        return judged({ broker, requestId, report })
      case 'revocation.kept':
        return kept({ broker, requestId, report })
    }
  }
}

const shownIn = (
  by: string,
  requestId: string,
  { remoteAddress, at }: SessionCut | CertificateUsed | VerdictReached,
): Shown => ({
  ...{ by, requestId, remoteAddress, at },
})

const judgements = {
  reject: 'connection.refused',
  quarantine: 'connection.quarantined',
  grace: 'connection.tolerated',
  'log-only': 'connection.tolerated',
}

const subjectOf = ({ deviceId, fingerprint }: SessionCut | Alert | VerdictReached): string =>
  deviceId === undefined ? `certificate:${fingerprint ?? 'none'}` : `device:${deviceId}`

/** As the audit log has it: flat. */
function detailsOf(report: SessionCut | Alert | VerdictReached): NonNullable<AuditFact['details']> {
  const { type: _type, remoteAddress: _address, deviceId: _device, ...rest } = report
  const { lastPacket, ...flat } = { lastPacket: undefined, ...rest } as Partial<SessionCut>
  const last = { lastPacket: lastPacket?.type, lastTopic: lastPacket?.topic, lastPacketAt: lastPacket?.at }
  return Object.fromEntries(
    Object.entries({ ...flat, ...last }).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])),
  )
}
