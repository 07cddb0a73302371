/** What every MQTT connection is served with. */
import type { Configuration } from '../contract/configuration.ts'
import { type ProblemCode, problems } from '../contract/problems.ts'
import type { FleetError } from '../runtime/errors.ts'
import type { Log } from '../runtime/log.ts'
import { type Refusal, verdictFields } from './admission.ts'
import type { SessionStore } from './backends/session-store.ts'
import { type Asked, type Denials, refusedOf } from './denials.ts'
import type { Events } from './events.ts'
import type { FastPath } from './fast-path.ts'
import type { FirstUses } from './first-uses.ts'
import type { Gate } from './gate.ts'
import type { Meters } from './meters.ts'
import type { Presence } from './presence.ts'
import type { Quotas } from './quotas.ts'
import type { RetainedMessages } from './retained.ts'
import type { Carried, Router } from './router.ts'
import type { Connection, Sessions } from './sessions.ts'
import type { Wills } from './wills.ts'
import type { Bus } from './wire/aedes-port.ts'
import type { LinkLimits } from './wire/link-events.ts'
import type { RouteIndex } from './wire/route-index.ts'

export type MqttContext = {
  config: Configuration['broker']
  gate: Gate
  sessions: Sessions
  store: SessionStore
  index: RouteIndex
  bus: Bus<Carried>
  router: Router
  /** Undefined where every message takes the general way. */
  fastPath: FastPath | undefined
  retained: RetainedMessages
  wills: Wills
  clock: () => Date
  log: Log
  quotas: Quotas
  linkLimits: LinkLimits
  /** A line that a client can bring about as often as it likes. */
  warn(key: string, fields: () => { event: string; reason: string } & Record<string, unknown>): void
  denials: Pick<Denials, 'note' | 'again' | 'isMixed'>
  firstUses: Pick<FirstUses, 'note'>
  events: Pick<Events, 'raise'>
  presence: Presence
  meters: Meters
}

export const shown = (topic: string): string => topic.slice(0, 200)

export const who = ({ id, remoteAddress, deviceId, certificate, clientId, rules, verdict }: Connection) => ({
  connectionId: id,
  remoteAddress,
  listener: rules.name,
  deviceId,
  serial: certificate?.serial,
  clientId: clientId?.slice(0, 200),
  ...(verdict === undefined ? {} : verdictFields(verdict)),
})

export type RefusedPacket = {
  event: string
  reason: ProblemCode
  asked: Asked
  /** In place of the title of `reason`. */
  detail?: string
  needed?: number
  /** Of the policy: the one that denies. */
  statement?: string | undefined
  slowed?: boolean
}

/**
 * A publish or a subscription that is refused, each kind of refusal of a client told in summary.
 *
 * @returns the id under which it can be asked about
 */
export const warnRefused = (context: MqttContext, connection: Connection, packet: RefusedPacket): string =>
  tellRefused(context, connection, packet).denial

/** One that was told, for who is refused the same again at once. */
export type ToldRefusal = {
  readonly denial: string
  /** Tells it once more, as of something that is like it. @returns false when it has to be told anew */
  again(now: number): boolean
}

export function tellRefused(
  context: MqttContext,
  connection: Connection,
  { asked, needed, ...fields }: RefusedPacket,
): ToldRefusal {
  const { event, reason, detail: message = problems[reason].title } = fields
  const stage = asked.action === 'subscribe' ? 'subscribe' : 'publish'
  const refused = refusedOf(connection)
  const refusal = { stage, cause: reason, message, asked, needed } as const
  const denial = context.denials.note(refused, refusal)
  const key = `${event} ${reason} ${connection.clientId}`
  const line = () => ({ ...fields, denial, ...who(connection), topic: shown(asked.topic) })
  context.warn(key, line)
  return {
    denial,
    again(now) {
      if (!context.denials.again(denial, { refused, refusal, now })) return false
      context.warn(key, line)
      return true
    },
  }
}

export type ConnectRefusal = Pick<Refusal, 'reason' | 'message' | 'facts' | 'needed' | 'isWill'>

/** A CONNECT that is refused. @returns what to tell the client */
export function noteRefused(
  { gate }: Pick<MqttContext, 'gate'>,
  connection: Connection,
  { reason: cause, message, facts, needed, isWill = false }: ConnectRefusal,
  will?: Omit<Asked, 'action'>,
): string {
  if (connection.endReason !== undefined) return message // it was told already
  connection.endReason = cause
  const refused = refusedOf(connection)
  const asked = isWill && will ? ({ ...will, action: 'publish' } as const) : undefined
  const denial = gate.refused(
    { ...refused, facts: facts ?? refused.facts },
    { stage: isWill ? 'will' : 'connect', cause, message, asked, needed },
    who(connection),
  )
  return `${message}; ${askAbout(denial)}`
}

/** A session that had to go, unless that was noted when it was decided. */
export function noteEnded(
  { denials }: MqttContext,
  connection: Connection,
  cause: ProblemCode,
  sentence: string,
): void {
  const refusal = {
    stage: cause === 'slow_reader' ? 'delivery' : 'session',
    cause,
    message: sentence || problems[cause].title,
  } as const
  connection.denial ??= denials.note(refusedOf(connection), refusal)
}

/** What lies under a refusal is for the operator alone: a disk that is full, or cannot be read. */
export function warnOfStore({ warn }: MqttContext, error: FleetError): void {
  if (error.cause === undefined) return
  warn('store', () => ({ event: 'store.failed', reason: error.code, err: error }))
}

/** What a version 5 client is told of a refusal. */
export const askAbout = (denial: string): string => `denial ${denial}`
