/** Tells, once each, when a certificate that its device still needs has so many days left. */

import { type CertificateRecord, findCertificate, listNoticeable, writeCertificate } from '../registry/certificates.ts'
import type { DeviceRecord } from '../registry/devices.ts'
import { findDevice } from '../registry/devices.ts'
import { type Registry, untilNoConflict } from '../registry/registry.ts'
import { isReplaced } from './supersession.ts'

const dayMs = 86_400_000
export const noticeDays = [30, 14, 7, 1] as const
export type NoticeDays = (typeof noticeDays)[number]

type Validity = { notBefore: Date; notAfter: Date }

/**
 * When to tell next. Devices renew when two thirds of a certificate's life are over, so nothing is told before that: of one
 * that lives for 30 days, at 7 and 1.
 *
 * @returns ISO time; undefined when there is nothing more to tell
 */
export function nextNotice({ notBefore, notAfter }: Validity, now: Date): string | undefined {
  const lifeMs = notAfter.getTime() - notBefore.getTime()
  const days = noticeDays.find(
    (count) => 3 * count * dayMs < lifeMs && notAfter.getTime() - count * dayMs > now.getTime(),
  )
  return days === undefined ? undefined : new Date(notAfter.getTime() - days * dayMs).toISOString()
}

/**
 * Tells what is due. What is too much for one turn waits for the next.
 *
 * @returns for each that was told, which of the notices it was
 */
export async function noticeExpiring(registry: Registry, now: Date): Promise<NoticeDays[]> {
  const told: NoticeDays[] = []
  const { items } = await listNoticeable(registry, now, { limit: 500 })
  for (const { doc } of items) {
    const days = await untilNoConflict(() => notice(registry, doc.serial, now))
    if (days !== undefined) told.push(days)
  }
  return told
}

async function notice(registry: Registry, serial: string, now: Date): Promise<NoticeDays | undefined> {
  const found = await findCertificate(registry, serial)
  if (found?.doc.noticeAt === undefined) return undefined
  const { noticeAt: _, ...doc } = found.doc
  const [notBefore, notAfter] = [new Date(doc.notBefore!), new Date(doc.notAfter!)]
  const next = nextNotice({ notBefore, notAfter }, now)
  const device = await findDevice(registry, doc.deviceId!)
  const isTold =
    notAfter > now && device !== undefined && isNeeded(doc, device.doc) && !(await isReplaced(registry, doc))
  // Of several that are due, as after a time in which the service was down, the last one is told.
  const daysLeft = Math.ceil((notAfter.getTime() - now.getTime()) / dayMs)
  const requestId = `expiring-${serial}-${found.rev}`
  const { deviceId } = doc
  await registry.commit({
    requestId,
    writes: [writeCertificate(next === undefined ? doc : { ...doc, noticeAt: next }, found.rev)],
    audit: isTold
      ? [
          {
            action: 'certificate.expiring',
            actor: 'system',
            subject: `certificate:${serial}`,
            outcome: 'done',
            details: { device: deviceId!, daysLeft, notAfter: doc.notAfter! },
            requestId,
          },
        ]
      : [],
    feed: isTold
      ? [
          {
            type: 'certificate.expiring',
            data: { serial, fingerprint: doc.fingerprint!, deviceId: deviceId!, notAfter: doc.notAfter! },
          },
        ]
      : [],
    at: now,
  })
  return isTold ? noticeDays.findLast((days) => days >= daysLeft) : undefined
}

/** What was never used is of interest only while it is the last one that the device could have. */
const isNeeded = ({ status, firstUsedAt, serial }: CertificateRecord, device: DeviceRecord): boolean =>
  status === 'issued' && device.status === 'active' && (firstUsedAt !== undefined || device.currentSerial === serial)
