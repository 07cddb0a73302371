import { type AttributeChanges, attributePairs, changedAttributes } from '../../contract/device-attributes.ts'
import type { ChangeDevice } from '../../contract/device-change-api.ts'
import type { DeviceId } from '../../contract/ids.ts'
import { FleetError } from '../../runtime/errors.ts'
import { listAllowances } from '../registry/allowances.ts'
import type { Asked } from '../registry/asked.ts'
import { findCertificate } from '../registry/certificates.ts'
import { type DeviceRecord, deviceChanged, getDevice, writeDevice } from '../registry/devices.ts'
import type { Stored } from '../registry/engine.ts'
import { atRevision, type Registry, readAll, requireExpected } from '../registry/registry.ts'
import { defaultLabel } from './profiles.ts'
import type { RegistrationAuthority } from './registration-authority.ts'

type Changes = Omit<ChangeDevice, 'dryRun'>
type Labels = Pick<RegistrationAuthority, 'requireProfile' | 'requireProfileUnder'>

/**
 * Changes what the registry says of a device; brokers ask their policies again at once. Its certificate stays as it is: the
 * next one is made by what is said then. One on hold may be put right before it is let in again.
 *
 * @param isForeseen writes nothing, and answers with what would be
 * @throws FleetError `device_unknown`, `device_revoked`, `profile_unknown`, `label_mismatch` (it could renew no more),
 *   `request_malformed` (more attributes than a device may have), `precondition_failed`
 */
export function changeDevice(
  registry: Registry,
  { id, changes, isForeseen, labels }: { id: DeviceId; changes: Changes; isForeseen: boolean; labels: Labels },
  asked: Asked,
): Promise<Stored<DeviceRecord>> {
  return atRevision(asked, async () => {
    const known = await getDevice(registry, id)
    const { doc, rev } = known
    if (doc.status === 'revoked') throw new FleetError('device_revoked', `${id} was revoked at ${doc.revokedAt}`)
    const { profile = doc.profile, groups = doc.groups } = changes
    if (profile !== doc.profile) await requireRenewableAs(registry, { device: doc, profile, labels })
    const expect = asked.ifMatch ?? rev
    const device: DeviceRecord = { ...doc, profile, groups: [...new Set(groups)], ...merged(doc, changes.attributes) }
    if (isForeseen) {
      requireExpected({ kind: 'device', id, expect }, known)
      return { doc: device, rev }
    }
    const { replayed } = await registry.commit({
      requestId: `${asked.requestId}-device`,
      digest: asked.digest,
      writes: [writeDevice(device, expect)],
      audit: [
        {
          action: 'device.changed',
          actor: asked.actor,
          subject: `device:${id}`,
          outcome: 'done',
          details: detailsOf(changes),
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

/** A label with a profile of its own renews no certificate of a device that has another, and lets none enroll. */
async function requireRenewableAs(
  registry: Registry,
  { device, profile, labels }: { device: DeviceRecord; profile: string; labels: Labels },
): Promise<void> {
  const { id, currentSerial } = device
  labels.requireProfile(profile)
  const current = currentSerial === undefined ? undefined : await findCertificate(registry, currentSerial)
  if (current !== undefined) {
    const advice = `have ${id} enroll anew with a token, where no label is named, before it gets another profile`
    labels.requireProfileUnder(current.doc.label ?? defaultLabel, profile, advice)
  }
  for (const { doc } of await readAll((paging) => listAllowances(registry, { deviceId: id, ...paging }))) {
    labels.requireProfileUnder(doc.label, profile, `take ${doc.serial} off the allow-list of the label first`)
  }
}

function merged({ attributes }: DeviceRecord, changes: AttributeChanges | undefined): Pick<DeviceRecord, 'attributes'> {
  if (changes === undefined) return {}
  try {
    return { attributes: changedAttributes(attributes, changes) }
  } catch (cause) {
    throw new FleetError('request_malformed', (cause as Error).message, { cause })
  }
}

function detailsOf({ profile, groups, attributes }: Changes) {
  const unset = Object.keys(attributes ?? {}).filter((name) => attributes![name] === null)
  return {
    ...(profile === undefined ? {} : { profile }),
    ...(groups === undefined ? {} : { groups }),
    ...(attributes === undefined ? {} : { set: attributePairs(changedAttributes({}, attributes)), unset }),
  }
}
