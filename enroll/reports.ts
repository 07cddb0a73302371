import type { Alert, BrokerReport, CertificateUsed, SessionCut } from '../contract/broker-reports.ts'
import type { ProblemCode } from '../contract/problems.ts'
import type { Log } from '../runtime/log.ts'
import { noteUse } from './ca/supersession.ts'
import type { Reported } from './feed-server.ts'
import type { AuditFact } from './registry/audit-log.ts'
import { findCertificate } from './registry/certificates.ts'
import { findCuts, writeCut } from './registry/cuts.ts'
import { type Registry, untilNoConflict } from './registry/registry.ts'

// All connections of one device end at once, and each is written for itself.
const attempts = 100

type Said<R extends BrokerReport> = { broker: string; requestId: string; report: R }
type ReportsOptions = { registry: Registry; overlapMs: number; clock: () => Date; log: Log }

/** Takes what brokers report. A report that comes again has no second effect: its id is the request's. */
export function createReportDesk({
  registry,
  overlapMs,
  clock,
  log,
}: ReportsOptions): (reported: Reported) => Promise<void> {
  const record = async (requestId: string, fact: Omit<AuditFact, 'requestId'>): Promise<boolean> => {
    const audit = [{ ...fact, requestId }]
    const { replayed } = await registry.commit({ requestId, writes: [], audit, at: clock() })
    return !replayed
  }

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
      const before = deviceId === undefined ? undefined : await findCuts(registry, deviceId)
      const ended = { ...rest, broker, heardAt: heardAt.toISOString() }
      const writes = deviceId === undefined ? [] : [writeCut(deviceId, ended, before)]
      await registry.commit({ requestId, writes, audit: [audit], at: heardAt })
    }, attempts)
  }

  async function alerted({ broker, requestId, report }: Said<Alert>): Promise<void> {
    const isNew = await record(requestId, {
      action: 'alert.raised',
      actor: `broker:${broker}`,
      subject: subjectOf(report),
      outcome: 'done',
      details: detailsOf(report),
      remoteAddress: report.remoteAddress,
    })
    const { kind, deviceId, remoteAddress, serial, count, detail } = report
    if (isNew)
      log.warn({ event: 'alert.raised', kind, broker, deviceId, remoteAddress, serial, count, detail }, 'alert')
  }

  /** From its first session on it is certain that the device has the certificate. */
  async function used({ broker, requestId, report }: Said<CertificateUsed>): Promise<void> {
    const { serial, fingerprint, remoteAddress, at } = report
    const known = await findCertificate(registry, serial)
    // Another CA may have given the same number to a certificate of its own.
    if (known?.doc.fingerprint !== fingerprint) return
    const by = { actor: `broker:${broker}`, remoteAddress, requestId }
    await noteUse(registry, { serial, at: new Date(at), ...by, overlapMs, now: clock() })
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
    }
  }
}

const subjectOf = ({ deviceId, fingerprint }: SessionCut | Alert): string =>
  deviceId === undefined ? `certificate:${fingerprint ?? 'none'}` : `device:${deviceId}`

/** As the audit log has it: flat. */
function detailsOf(report: SessionCut | Alert): NonNullable<AuditFact['details']> {
  const { type: _type, remoteAddress: _address, deviceId: _device, ...rest } = report
  const { lastPacket, ...flat } = { lastPacket: undefined, ...rest } as Partial<SessionCut>
  const last = { lastPacket: lastPacket?.type, lastTopic: lastPacket?.topic, lastPacketAt: lastPacket?.at }
  return Object.fromEntries(
    Object.entries({ ...flat, ...last }).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])),
  )
}
