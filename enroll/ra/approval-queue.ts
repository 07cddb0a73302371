import type { ApprovalSettings } from '../../contract/configuration.ts'
import type { FeedFact } from '../../contract/feed.ts'
import type { DeviceId, GroupName, ProfileName } from '../../contract/ids.ts'
import { FleetError } from '../../runtime/errors.ts'
import { networkOf } from '../../runtime/limits.ts'
import {
  type ApprovalRecord,
  deleteApproval,
  findApproval,
  getApproval,
  listApprovals,
  writeApproval,
} from '../registry/approvals.ts'
import type { Asked } from '../registry/asked.ts'
import type { AuditFact } from '../registry/audit-log.ts'
import { findDevice, writeDevice } from '../registry/devices.ts'
import type { Range, Stored } from '../registry/engine.ts'
import { type Registry, untilNoConflict, type Write } from '../registry/registry.ts'
import type { Voucher } from '../registry/vouchers.ts'
import { deviceCreation } from './enrollment-tokens.ts'

/** A request as it comes in: `id` is the SHA-256 of its DER, so that another key is another request. */
export type Request = Pick<
  ApprovalRecord,
  'id' | 'deviceId' | 'profile' | 'label' | 'keyType' | 'spkiHash' | 'proved' | 'remoteAddress'
>
type Waiting = { decision: 'pending'; retryAfterMs: number }
type Approved = { decision: 'approved'; voucher: Voucher }

const sweepAtMost = 100

/** Requests that wait for a person. They are records, so they survive a restart; what was decided is for one key. */
export class ApprovalQueue {
  readonly #registry: Registry
  readonly #settings: ApprovalSettings
  #turn: Promise<unknown> = Promise.resolve()

  constructor(registry: Registry, settings: ApprovalSettings) {
    this.#registry = registry
    this.#settings = settings
  }

  /** The same, with what is decided written there. */
  over(registry: Registry): ApprovalQueue {
    return new ApprovalQueue(registry, this.#settings)
  }

  /**
   * What was decided about this request; a new one is put into the queue.
   *
   * @throws FleetError `approval_denied`, `approval_queue_full`, `conflict`
   */
  async ask(request: Request, asked: Pick<Asked, 'requestId' | 'now'>): Promise<Waiting | Approved> {
    const known = await findApproval(this.#registry, request.id)
    const isFresh = known !== undefined && new Date(known.doc.expiresAt) > asked.now
    const context = asker(request)
    if (isFresh && known.doc.label !== request.label) {
      throw new FleetError(
        'label_mismatch',
        `this request was made under the label ${known.doc.label}; make another for ${request.label}`,
        { context },
      )
    }
    if (!isFresh || known.doc.profile !== request.profile) {
      // One after the other, or many at once would all find room.
      await this.#inTurn(() => this.#file(request, asked))
    } else if (known.doc.decision === 'denied') {
      throw new FleetError('approval_denied', `an operator denied this request: ${known.doc.reason}`, { context })
    } else if (known.doc.decision === 'approved') {
      return { decision: 'approved', voucher: { kind: 'approval', id: request.id, ...known } }
    }
    return { decision: 'pending', retryAfterMs: this.#settings.retryAfterMs }
  }

  async #file(request: Request, { requestId, now }: Pick<Asked, 'requestId' | 'now'>): Promise<void> {
    await this.#sweep(requestId, now)
    const network = networkOf(request.remoteAddress)
    const { maxPending, maxPendingPerAddress, maxPendingPerDevice, retryAfterMs, expireMs } = this.#settings
    const bounds: [Range, number, string][] = [
      [{ index: 'approval.device', value: request.deviceId }, maxPendingPerDevice, `of ${request.deviceId}`],
      [{ index: 'approval.network', value: network }, maxPendingPerAddress, 'from this address'],
      [{ index: 'approval.decision', value: 'pending' }, maxPending, 'in all'],
    ]
    for (const [range, atMost, whose] of bounds) {
      if ((await this.#registry.count(range, atMost)) < atMost) continue
      // Which bound it was would tell whether somebody else asks by that name.
      throw new FleetError('approval_queue_full', 'too many requests wait for approval already; ask again later', {
        context: {
          ...asker(request),
          unsaid: `${atMost} ${whose} wait`,
          retryAfterSeconds: Math.ceil(retryAfterMs / 1000),
        },
      })
    }
    const known = await findApproval(this.#registry, request.id)
    const device = await findDevice(this.#registry, request.deviceId)
    const record: ApprovalRecord = {
      ...request,
      network,
      requestedAt: now.toISOString(),
      expiresAt: new Date(now.getTime() + expireMs).toISOString(),
      decision: 'pending',
      status: 'unspent',
    }
    await this.#registry.commit({
      requestId: `${requestId}-approval`,
      writes: [writeApproval(record, known?.rev ?? 0)],
      audit: [
        {
          action: 'approval.requested',
          actor: isProven(request) ? `device:${request.deviceId}` : 'unknown',
          subject: `approval:${request.id}`,
          outcome: 'done',
          details: {
            device: request.deviceId,
            // What the device is not told: an answer is the same for every name.
            deviceStatus: device?.doc.status ?? 'unknown',
            label: request.label,
            profile: request.profile,
            key: request.spkiHash,
            proved: request.proved,
          },
          remoteAddress: request.remoteAddress,
          requestId,
        },
      ],
      at: now,
    })
  }

  /** Takes out what has expired, so that it counts no more. */
  async #sweep(requestId: string, now: Date): Promise<void> {
    const { items } = await listApprovals(this.#registry, { expiresBefore: now, limit: sweepAtMost })
    if (items.length === 0) return
    await this.#registry.commit({
      requestId: `${requestId}-expire`,
      writes: items.map(deleteApproval),
      audit: items
        .filter(({ doc }) => doc.decision === 'pending')
        .map(
          ({ doc }): AuditFact => ({
            action: 'approval.expired',
            actor: 'system',
            subject: `approval:${doc.id}`,
            outcome: 'done',
            details: { device: doc.deviceId },
            requestId,
          }),
        ),
      at: now,
    })
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#turn.then(work)
    this.#turn = mine.catch(() => undefined)
    return mine
  }

  /**
   * Lets the key of this request, and no other, have one certificate. A device that is not there is created with the profile
   * that the request came for.
   *
   * @throws FleetError `approval_unknown`, `conflict` (decided otherwise, or the device has another profile), `device_revoked`, `device_held`
   */
  approve(id: string, groups: GroupName[], asked: Asked): Promise<ApprovalRecord> {
    return this.#decide(id, asked, async (known) => {
      const { deviceId, profile } = known.doc
      const device = await findDevice(this.#registry, deviceId)
      if (device?.doc.status === 'revoked') {
        throw new FleetError('device_revoked', `${deviceId} was revoked at ${device.doc.revokedAt}; readmit it first`)
      }
      if (device?.doc.status === 'held') {
        throw new FleetError('device_held', `${deviceId} is on hold since ${device.doc.heldAt}; enable it first`)
      }
      if (device !== undefined && device.doc.profile !== profile) {
        const sentence = `${deviceId} has the profile ${device.doc.profile}; the request is for ${profile}`
        throw new FleetError('conflict', sentence, { context: { final: true } })
      }
      if (device !== undefined && groups.length > 0) {
        throw new FleetError('conflict', `${deviceId} exists; groups are for a device that the approval creates`)
      }
      const created =
        device === undefined
          ? deviceCreation({ id: deviceId as DeviceId, profile: profile as ProfileName, groups }, asked)
          : undefined
      return {
        change: { decision: 'approved' },
        // Written as it is: a revocation that comes in between makes this commit a loser, and no approval survives it.
        writes: [created?.write ?? writeDevice(device!.doc, device!.rev)],
        audit: created === undefined ? [] : [created.audit],
        feed: created === undefined ? [] : [created.feed],
      }
    })
  }

  /** @throws FleetError `approval_unknown`, `conflict` (decided otherwise) */
  deny(id: string, reason: string, asked: Asked): Promise<ApprovalRecord> {
    return this.#decide(id, asked, async () => ({
      change: { decision: 'denied', reason },
      writes: [],
      audit: [],
      feed: [],
    }))
  }

  #decide(
    id: string,
    asked: Asked,
    decide: (known: Stored<ApprovalRecord>) => Promise<Outcome>,
  ): Promise<ApprovalRecord> {
    return untilNoConflict(async () => {
      const known = await getApproval(this.#registry, id)
      const { change, writes, audit, feed } = await decide(known)
      if (known.doc.decision === change.decision) return known.doc
      if (known.doc.decision !== 'pending') {
        const { decision, decidedBy, decidedAt } = known.doc
        throw new FleetError('conflict', `the request was ${decision} by ${decidedBy} at ${decidedAt}`, {
          context: { final: true },
        })
      }
      if (new Date(known.doc.expiresAt) <= asked.now) {
        throw new FleetError('approval_unknown', `the request expired at ${known.doc.expiresAt}`)
      }
      const record: ApprovalRecord = {
        ...known.doc,
        ...change,
        decidedAt: asked.now.toISOString(),
        decidedBy: asked.actor,
      }
      await this.#registry.commit({
        requestId: `${asked.requestId}-decide`,
        digest: asked.digest,
        writes: [writeApproval(record, known.rev), ...writes],
        audit: [
          {
            action: `approval.${change.decision}`,
            actor: asked.actor,
            subject: `approval:${id}`,
            outcome: 'done',
            details: {
              device: record.deviceId,
              key: record.spkiHash,
              ...(record.reason === undefined ? {} : { reason: record.reason }),
            },
            remoteAddress: asked.remoteAddress,
            requestId: asked.requestId,
          },
          ...audit,
        ],
        feed,
        at: asked.now,
      })
      return record
    })
  }
}

/** Who has proved nothing, or what many devices share, is no device, whatever it says. */
const isProven = ({ proved }: Request): boolean => proved.some((kind) => kind !== 'claim')
const asker = (request: Request): Record<string, string> =>
  isProven(request) ? { deviceId: request.deviceId } : { claimedId: request.deviceId }

type Outcome = {
  change: { decision: 'approved' } | { decision: 'denied'; reason: string }
  writes: Write[]
  audit: AuditFact[]
  feed: FeedFact[]
}
