import type { DeviceId } from '../../contract/ids.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { Asked } from '../registry/asked.ts'
import { type CertificateRecord, listCertificates, writeCertificate } from '../registry/certificates.ts'
import { type DeviceRecord, deviceChanged, getDevice, writeDevice } from '../registry/devices.ts'
import { type Registry, readAll, untilNoConflict } from '../registry/registry.ts'
import { barring, barringAttempts } from './barring.ts'
import { carryOut, type Plan } from './plan.ts'

export type Hold = {
  status: 'active' | 'held'
  heldAt?: string
  /** It was so before. */
  alreadySo: boolean
  /** Serial numbers of the certificates that it changed. */
  certificates: string[]
  /** The feed has it at this place: a broker that has applied it has put it in force. */
  feedSeq: number
}
type Input = Asked & { id: DeviceId }

/**
 * Puts a device on hold (RFC 5280 5.3.1, certificateHold) with every certificate it has, in one durable batch. Tokens and
 * requests that wait for approval stay, and are worth nothing meanwhile.
 *
 * @throws FleetError `device_unknown`, `conflict` for a revoked device, which is out for good
 */
export const holdDevice = (registry: Registry, input: Input): Promise<Hold> =>
  barring([input.id], 'device_held', () => change(registry, 'held', input))

/**
 * Takes a hold back: the certificates that it held count again. One that is active is left as it is.
 *
 * @throws FleetError `device_unknown`, `conflict` for a revoked device: there is no way back from that
 */
export const releaseDevice = (registry: Registry, input: Input): Promise<Hold> => change(registry, 'active', input)

const change = (registry: Registry, status: 'active' | 'held', input: Input): Promise<Hold> =>
  untilNoConflict(async () => {
    const requestId = `${input.requestId}-${status}`
    const plan = async () => [await planHold(registry, status, input)]
    const { plans, feedSeq } = await carryOut(registry, plan, { ...input, requestId })
    return { ...plans[0]!.answer, feedSeq }
  }, barringAttempts)

/** @throws FleetError `device_unknown`, `conflict` for a revoked device */
export async function planHold(
  registry: Registry,
  status: 'active' | 'held',
  input: Input,
): Promise<Plan<Omit<Hold, 'feedSeq'>>> {
  const { id, now, actor, remoteAddress, requestId } = input
  const { doc, rev } = await getDevice(registry, id)
  if (doc.status === 'revoked') {
    const sentence = `${id} was revoked at ${doc.revokedAt}; it comes back by being readmitted and enrolling anew`
    throw new FleetError('conflict', sentence, { context: { final: true } })
  }
  const { heldAt: before, ...rest } = doc
  if (doc.status === status) {
    const since = before === undefined ? {} : { heldAt: before }
    return { answer: { status, ...since, alreadySo: true, certificates: [] } }
  }
  const heldAt = now.toISOString()
  const device: DeviceRecord = status === 'held' ? { ...rest, status, heldAt } : { ...rest, status }
  const all = await readAll((paging) => listCertificates(registry, { deviceId: id, ...paging }))
  const changed = all.filter((one) => one.doc.status === (status === 'held' ? 'issued' : 'held'))
  const serials = changed.map((one) => one.doc.serial)
  return {
    answer: { status, ...(status === 'held' ? { heldAt } : {}), alreadySo: false, certificates: serials },
    change: {
      writes: [
        writeDevice(device, rev),
        ...changed.map((one) =>
          writeCertificate(status === 'held' ? held(one.doc, heldAt) : released(one.doc), one.rev),
        ),
      ],
      audit: {
        action: status === 'held' ? 'device.held' : 'device.enabled',
        actor,
        subject: `device:${id}`,
        outcome: 'done',
        ...(status === 'held' ? { reason: 'certificateHold' } : {}),
        details: { certificates: serials, ...(before === undefined ? {} : { heldAt: before }) },
        remoteAddress,
        requestId,
      },
      feed: [deviceChanged(device)],
    },
  }
}

const held = (doc: CertificateRecord, revokedAt: string): CertificateRecord => ({
  ...doc,
  status: 'held',
  revokedAt,
  revocationReason: 'certificateHold',
})

const released = ({ revokedAt: _, revocationReason: __, ...doc }: CertificateRecord): CertificateRecord => ({
  ...doc,
  status: 'issued',
})
