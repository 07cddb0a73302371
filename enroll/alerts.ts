import type { Alert } from '../contract/broker-reports.ts'
import type { FeedFact } from '../contract/feed.ts'
import { networkOf } from '../runtime/limits.ts'
import type { Log } from '../runtime/log.ts'
import { LogLimit } from '../runtime/log-limit.ts'
import { noteEvidence } from './ca/incidents.ts'
import type { WatchedKeyUse } from './ra/key-watch.ts'
import type { AuditFact } from './registry/audit-log.ts'
import { findDevice } from './registry/devices.ts'
import { type Registry, untilNoConflict } from './registry/registry.ts'

type Raised = {
  kind: Alert['kind']
  deviceId: string | undefined
  /** Where no device is concerned. */
  serial?: string | undefined
  remoteAddress: string
  /** `enroll`, or the broker that saw it. */
  by: string
  requestId: string
  /** When it was seen. */
  at: string
  details: NonNullable<AuditFact['details']>
  /** What brokers tell applications of it; of one that a broker has raised, that has told it itself. */
  told?: { kind: 'key_reused' | 'clone'; deviceId?: string; message: string; count: number }
}

// Several of one device come at once, and each is evidence of one incident.
const attempts = 100

/**
 * What a person has to look at: a line in the log, and in one batch an entry in the audit log, evidence of an incident and what
 * applications hear of it.
 */
export class Alerts {
  readonly #registry: Registry
  readonly #clock: () => Date
  readonly #log: Log
  readonly #uses = new LogLimit({ burst: 1, everyMs: 60_000 })

  constructor(options: { registry: Registry; clock: () => Date; log: Log }) {
    this.#registry = options.registry
    this.#clock = options.clock
    this.#log = options.log
  }

  /** Once for each request id. */
  async raise({ kind, deviceId, serial, remoteAddress, by, requestId, at, details, told }: Raised): Promise<void> {
    const now = this.#clock()
    const { incident, isNew } = await untilNoConflict(async () => {
      const evidence = { at, what: 'alert.raised', by, remoteAddress, details: { ...details, kind } }
      // A broker may name any device; those that there are are as many as they are.
      const isKnown = deviceId !== undefined && (await findDevice(this.#registry, deviceId)) !== undefined
      const noted = isKnown
        ? await noteEvidence(this.#registry, { kind, deviceId, evidence, opens: true, now })
        : { incident: undefined, writes: [] }
      const fact: AuditFact = {
        action: 'alert.raised',
        actor: by === 'enroll' ? 'system' : `broker:${by}`,
        subject: subjectOf(deviceId, serial),
        outcome: 'done',
        details: { kind, ...details, ...(noted.incident === undefined ? {} : { incident: noted.incident }) },
        remoteAddress,
        requestId,
      }
      const { incident, writes } = noted
      const known = incident === undefined ? {} : { incident }
      const feed: FeedFact[] =
        told === undefined ? [] : [{ type: 'alert.raised', data: { ...told, remoteAddress, ...known } }]
      const { replayed } = await this.#registry.commit({ requestId, writes, audit: [fact], feed, at: now })
      return { incident, isNew: !replayed }
    }, attempts)
    if (isNew)
      this.#log.warn({ event: 'alert.raised', kind, by, deviceId, remoteAddress, incident, ...details }, 'alert')
  }

  /** Somebody who goes on trying from one address (IPv6: one /64) is told of once a minute. */
  keyUsed({ spkiHash, deviceId, serial, remoteAddress, where, path, requestId, at }: WatchedKeyUse): void {
    const turn = this.#uses.take(`${spkiHash} ${networkOf(remoteAddress)}`, at.getTime())
    if (turn === undefined) return
    const count = turn.suppressed + 1
    const details = { key: spkiHash, where, path, count }
    const owner = deviceId ?? `certificate ${serial}`
    const message = `a key of ${owner} that was reported as compromised was used in a ${where} at the EST service`
    this.raise({
      ...{ kind: 'key_reused', deviceId, serial, remoteAddress, by: 'enroll', details },
      told: { kind: 'key_reused', ...(deviceId === undefined ? {} : { deviceId }), message, count },
      ...{ requestId: `${requestId}-alert`, at: at.toISOString() },
    }).catch((err: unknown) => this.#log.error({ event: 'alert.notNoted', deviceId, err }, 'an alert was not noted'))
  }
}

function subjectOf(deviceId: string | undefined, serial: string | undefined): string {
  if (deviceId !== undefined) return `device:${deviceId}`
  return serial === undefined ? 'unknown' : `certificate:${serial}`
}
