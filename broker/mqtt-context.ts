/** What every MQTT connection is served with. */
import type { Configuration } from '../contract/configuration.ts'
import type { ProblemCode } from '../contract/problems.ts'
import type { Log } from '../runtime/log.ts'
import { verdictFields } from './admission.ts'
import type { SessionStore } from './backends/session-store.ts'
import type { FastPath } from './fast-path.ts'
import type { Gate } from './gate.ts'
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
  warn(key: string, fields: { event: string; reason: string } & Record<string, unknown>): void
}

export const shown = (topic: string): string => topic.slice(0, 200)

export const who = ({ remoteAddress, deviceId, certificate, clientId, rules, verdict }: Connection) => ({
  remoteAddress,
  listener: rules.name,
  deviceId,
  serial: certificate?.serial,
  clientId: clientId?.slice(0, 200),
  ...(verdict === undefined ? {} : verdictFields(verdict)),
})

/** A publish or a subscription that the policy does not allow, each kind of refusal of a client told in summary. */
export function warnRefused(
  context: MqttContext,
  connection: Connection,
  { topic, ...fields }: { event: string; reason: ProblemCode; topic: string; [field: string]: unknown },
): void {
  const { event, reason } = fields
  context.warn(`${event} ${reason} ${connection.clientId}`, { ...fields, ...who(connection), topic: shown(topic) })
}
