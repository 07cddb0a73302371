import { type AttributeChanges, attributePairs, changedAttributes } from '../../contract/device-attributes.ts'
import type { DeviceId } from '../../contract/ids.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { Asked } from '../registry/asked.ts'
import { type DeviceRecord, deviceChanged, getDevice, writeDevice } from '../registry/devices.ts'
import type { Stored } from '../registry/engine.ts'
import { atRevision, type Registry } from '../registry/registry.ts'

/**
 * Changes what an operator has noted about a device; brokers ask their policies again at once.
 *
 * @throws FleetError `device_unknown`, `device_revoked`, `request_malformed` (more attributes than a device may have),
 *   `precondition_failed`
 */
export function setAttributes(
  registry: Registry,
  { id, changes }: { id: DeviceId; changes: AttributeChanges },
  asked: Asked,
): Promise<Stored<DeviceRecord>> {
  const names = Object.keys(changes)
  const set = changedAttributes({}, changes)
  return atRevision(asked, async () => {
    const { doc, rev } = await getDevice(registry, id)
    if (doc.status === 'revoked') throw new FleetError('device_revoked', `${id} was revoked at ${doc.revokedAt}`)
    const expect = asked.ifMatch ?? rev
    const device: DeviceRecord = { ...doc, attributes: merged(doc, changes) }
    const { replayed } = await registry.commit({
      requestId: `${asked.requestId}-attributes`,
      digest: asked.digest,
      writes: [writeDevice(device, expect)],
      audit: [
        {
          action: 'device.changed',
          actor: asked.actor,
          subject: `device:${id}`,
          outcome: 'done',
          details: { set: attributePairs(set), unset: names.filter((name) => changes[name] === null) },
          remoteAddress: asked.remoteAddress,
          requestId: asked.requestId,
        },
      ],
      feed: [deviceChanged(device)],
      at: asked.now,
    })
    return replayed ? getDevice(registry, id) : { doc: device, rev: expect + 1 }
  })
}

function merged({ attributes }: DeviceRecord, changes: AttributeChanges) {
  try {
    return changedAttributes(attributes, changes)
  } catch (cause) {
    throw new FleetError('request_malformed', (cause as Error).message, { cause })
  }
}
