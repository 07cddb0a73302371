import { purgeKinds } from '../../contract/feed.ts'
import type { DeviceId } from '../../contract/ids.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { Asked } from '../registry/asked.ts'
import { deleteClaim, findClaim } from '../registry/claims.ts'
import { type DeviceRecord, deviceChanged, getDevice, keptOf, purging, writeDevice } from '../registry/devices.ts'
import { type Registry, untilNoConflict } from '../registry/registry.ts'

/**
 * Lets a revoked device enroll anew. Its certificates and tokens of before stay revoked; what a factory gave it, or an
 * operator gives it from now on, counts again, and it can be claimed once more. One that is not revoked is left as it is.
 *
 * @param isRecovered wanted for one that was stolen: somebody has it in hand again. Its former keys stay worthless
 * @throws FleetError `device_unknown`, `conflict` for one that was stolen and not recovered
 */
export function readmitDevice(
  registry: Registry,
  { id, isRecovered }: { id: DeviceId; isRecovered: boolean },
  asked: Asked,
): Promise<DeviceRecord> {
  return untilNoConflict(async () => {
    const { doc, rev } = await getDevice(registry, id)
    if (doc.status !== 'revoked') return doc
    const { revokedAt, revocationReason, stolenAt, currentSerial: _, ...rest } = doc
    if (stolenAt !== undefined && !isRecovered) {
      const sentence = `${id} was reported stolen at ${stolenAt}; when you have it in hand again, readmit it with --stolen-recovered`
      throw new FleetError('conflict', sentence, { context: { final: true } })
    }
    const claim = await findClaim(registry, id)
    // What was void as long as it was revoked stays so, whatever the brokers' clocks said when it was published.
    const kept = keptOf(doc)
    const kinds = purgeKinds.filter((kind) => rest.purge?.[kind] !== undefined && !kept.includes(kind))
    const device: DeviceRecord = { ...rest, status: 'active', ...purging(rest.purge, kinds, asked.now.toISOString()) }
    const { replayed } = await registry.commit({
      requestId: `${asked.requestId}-readmit`,
      digest: asked.digest,
      writes: [writeDevice(device, rev), ...(claim === undefined ? [] : [deleteClaim(claim)])],
      audit: [
        {
          action: 'device.readmitted',
          actor: asked.actor,
          subject: `device:${id}`,
          outcome: 'done',
          details: {
            revokedAt: revokedAt!,
            revokedFor: revocationReason!,
            ...(stolenAt === undefined ? {} : { stolenAt }),
          },
          remoteAddress: asked.remoteAddress,
          requestId: asked.requestId,
        },
      ],
      feed: [deviceChanged(device)],
      at: asked.now,
    })
    // As it is: it may have been revoked once more since.
    return replayed ? (await getDevice(registry, id)).doc : device
  })
}
