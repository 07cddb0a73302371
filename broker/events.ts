import { setImmediate } from 'node:timers/promises'
import type { Configuration } from '../contract/configuration.ts'
import {
  type EventCertificate,
  type EventType,
  eventTopic,
  eventTypes,
  type FleetEvent,
} from '../contract/fleet-events.ts'
import { isGatewayTopic } from '../contract/topics.ts'
import { type CertificateFacts, toPem } from '../pki/certificate.ts'
import { LogLimit } from '../runtime/log-limit.ts'
import { brokerItself, type Message } from './backends/session-store.ts'
import { factsShown, type Refusal, type Refused, written } from './denials.ts'
import type { Connection } from './sessions.ts'
import type { RegistryNews } from './trust/snapshot.ts'

export type EventSettings = Configuration['broker']['events']

/** An event as it is raised: what costs something to write is written once somebody gets it. */
export type Raised = Omit<FleetEvent, 'id' | 'at' | 'broker' | 'certificate'> & {
  /** Now when missing. */
  at?: Date
  certificate?: CertificateFacts | EventCertificate | undefined
  /** What the gateway calls the CA of the certificate. */
  authority?: string | undefined
}

/** From events to those who get them. */
export type Outlet = {
  /** Whether anybody has subscribed, connected or not. */
  isWanted(topic: string): boolean
  /** Routed in the turn of the call and in this order; resolves when all is stored that has to be, or has failed. */
  publish(messages: readonly Message[]): Promise<void>
}

type EventsOptions = { settings: EventSettings; brokerId: string; newId: () => string; clock: () => Date }
type Count = { told: number; left: number }

const perTurn = 500
const windowMs = 1_000
/** The same refusal again: a device that is refused comes back every second. */
const repeatMs = 60_000
const maxText = 500

/**
 * Events for applications. To raise one that nobody has subscribed to costs a look-up. The others are written in later
 * turns, and of each type no more than some in a second: the rest is told as a number.
 */
export class Events implements AsyncDisposable {
  readonly #options: EventsOptions
  readonly #counts = new Map<EventType, Count>(eventTypes.map((type) => [type, { told: 0, left: 0 }]))
  readonly #denials = new LogLimit({ burst: 1, everyMs: repeatMs })
  readonly #timer: NodeJS.Timeout
  #outlet: Outlet | undefined
  #pending: (Raised & { at: Date })[] = []
  #publishing: Promise<void> | undefined

  constructor(options: EventsOptions) {
    this.#options = options
    this.#timer = setInterval(() => this.#tellLeft(), windowMs)
    this.#timer.unref()
  }

  /** Before that nobody can have subscribed. */
  attach(outlet: Outlet): void {
    if (this.#options.settings.enabled) this.#outlet = outlet
  }

  raise(event: Raised): void {
    const { type } = event
    if (!this.#isWanted(type)) return
    const { maxPerSecond } = this.#options.settings
    const count = this.#counts.get(type)!
    // Where the disk takes no more, they wait no longer than it takes to have another second's.
    if (count.told >= maxPerSecond || this.#pending.length >= maxPerSecond * eventTypes.length) {
      count.left += event.count ?? 1
      return
    }
    count.told++
    this.#put(event)
  }

  /** Something was refused; `denial` is the id under which it can be asked about. */
  refused(refused: Refused, refusal: Refusal, denial: string): void {
    const { stage, cause, message, asked, times = 1 } = refusal
    // A session that has to go is told of as disconnected.
    if (stage === 'session') return
    // The will of a CONNECT has an address, one that is due has no connection.
    const isPeer = stage === 'tls' || stage === 'connect' || (stage === 'will' && refused.remoteAddress !== undefined)
    const type = isPeer ? 'refused' : 'denied'
    if (!this.#isWanted(type)) return
    // Of an event that somebody may not have, or each would bring the next one.
    if (stage === 'delivery' && asked !== undefined && isGatewayTopic(asked.topic)) return
    const turn = this.#denials.take(denial, this.#options.clock().getTime())
    if (turn === undefined) return
    const { listener, remoteAddress, deviceId, clientId, certificate, verdict } = refused
    this.raise({
      type,
      deviceId,
      clientId,
      reason: cause,
      message,
      listener,
      remoteAddress,
      state: verdict?.state,
      action: verdict?.action,
      certificate,
      authority: verdict?.authority,
      stage,
      denial,
      asked: asked && written(asked),
      ...(turn.suppressed + times > 1 ? { count: turn.suppressed + times } : {}),
    })
  }

  /** What was raised goes out before it resolves. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer)
    this.#tellLeft()
    await this.#publishing
    this.#outlet = undefined
  }

  #isWanted(type: EventType): boolean {
    return this.#outlet?.isWanted(eventTopic(type)) === true
  }

  #put(event: Raised): void {
    this.#pending.push({ ...event, at: event.at ?? this.#options.clock() })
    this.#publishing ??= this.#publish()
  }

  #tellLeft(): void {
    for (const [type, count] of this.#counts) {
      if (count.left > 0) this.#put({ type, count: count.left })
      count.told = 0
      count.left = 0
    }
  }

  async #publish(): Promise<void> {
    for (;;) {
      await setImmediate() // what one turn brings goes out together, after that turn's own work
      const events = this.#pending.splice(0, perTurn)
      if (events.length === 0) break
      await this.#outlet?.publish(events.map((event) => this.#messageOf(event)))
    }
    this.#publishing = undefined
  }

  #messageOf({ at, certificate, authority, ...rest }: Raised & { at: Date }): Message {
    const { settings, brokerId: broker, newId } = this.#options
    const event: FleetEvent = {
      id: newId(),
      ...rest,
      at: at.toISOString(),
      broker,
      clientId: rest.clientId?.slice(0, maxText),
      message: rest.message?.slice(0, maxText),
      certificate: certificate && certificateShown(certificate, authority, settings),
    }
    return messageOf(eventTopic(event.type), event, { at, retain: false })
  }
}

/** The registry has said something new. */
export function eventOfNews(news: RegistryNews): Raised {
  const { kind, deviceId } = news
  if (kind === 'deviceStatus') {
    const { status } = news
    if (status === 'revoked') return { type: 'revoked', deviceId, scope: 'device' }
    return { type: status === 'active' ? 'enabled' : status, deviceId }
  }
  if (kind === 'alert') {
    const { alert, at, remoteAddress, message, count, incident } = news
    return { type: 'alert', kind: alert, at, deviceId, remoteAddress, message, count, incident }
  }
  const { fingerprint, serial } = news
  if (kind === 'certificateRevoked')
    return {
      type: 'revoked',
      deviceId,
      scope: 'certificate',
      reason: news.reason,
      certificate: { fingerprint, serial },
    }
  const { notAfter } = news
  if (kind === 'expiring') return { type: 'expiring', deviceId, certificate: { fingerprint, serial, notAfter } }
  const { isRenewal } = news
  return { type: isRenewal ? 'renewed' : 'enrolled', deviceId, certificate: { fingerprint, serial, notAfter } }
}

/** What is known of a connection. */
export const eventOf = ({ deviceId, clientId, remoteAddress, rules, verdict, certificate }: Connection) => ({
  deviceId: deviceId ?? verdict?.deviceId,
  clientId,
  listener: rules.name,
  remoteAddress,
  state: verdict?.state,
  action: verdict?.action,
  certificate,
  authority: verdict?.authority,
})

export function certificateShown(
  certificate: CertificateFacts | EventCertificate,
  authority: string | undefined,
  { certificatePem }: EventSettings,
): EventCertificate {
  if (!('der' in certificate)) return certificate
  const pem = certificatePem ? { pem: encodeURIComponent(toPem(certificate.der)) } : {}
  return { ...factsShown(certificate), ...(authority === undefined ? {} : { authority }), ...pem }
}

/** User properties say what an application chooses by, so that it need not read what it passes over. */
export function messageOf(
  topic: string,
  body: { id?: string; deviceId?: string | undefined; certificate?: EventCertificate | undefined },
  { at, retain }: { at: Date; retain: boolean },
): Message {
  const named: [string, string | undefined][] = [
    ['event-id', body.id],
    ['device-id', body.deviceId],
    ['certificate-fingerprint', body.certificate?.fingerprint],
  ]
  return {
    topic,
    payload: Buffer.from(JSON.stringify(body)),
    qos: 1,
    retain,
    from: brokerItself,
    publishedAt: at.getTime(),
    properties: {
      payloadFormatIndicator: true,
      contentType: 'application/json',
      userProperties: named.flatMap(([name, value]) =>
        value === undefined ? [] : [[name, value] as [string, string]],
      ),
    },
  }
}
