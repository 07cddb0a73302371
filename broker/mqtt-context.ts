/** What every MQTT connection is served with. */
import type { Configuration } from '../contract/configuration.ts'
import type { Log } from '../runtime/log.ts'
import { verdictFields } from './admission.ts'
import type { SessionStore } from './backends/session-store.ts'
import type { Gate } from './gate.ts'
import type { RetainedMessages } from './retained.ts'
import type { Carried, Router } from './router.ts'
import type { Connection, Sessions } from './sessions.ts'
import type { Wills } from './wills.ts'
import type { Bus } from './wire/aedes-port.ts'
import type { RouteIndex } from './wire/route-index.ts'

export type MqttContext = {
  config: Configuration['broker']
  gate: Gate
  sessions: Sessions
  store: SessionStore
  index: RouteIndex
  bus: Bus<Carried>
  router: Router
  retained: RetainedMessages
  wills: Wills
  clock: () => Date
  log: Log
  maxInflight: number
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

export function warnDenied(
  context: MqttContext,
  connection: Connection,
  action: 'publish' | 'subscribe',
  topic: string,
  statement: string | undefined,
): void {
  context.warn(`${action} ${connection.clientId}`, {
    event: `${action}.denied`,
    reason: `${action}_denied`,
    ...who(connection),
    topic: shown(topic),
    statement,
  })
}
