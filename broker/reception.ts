import type { Gate } from './gate.ts'
import { type Quarantine, QuarantineSession } from './quarantine.ts'
import type { Connection } from './sessions.ts'
import type { Dropped, Goodbye, LinkEnd, LinkEvents } from './wire/link-events.ts'
import type { Connect, Publish, Subscribe, Unsubscribe } from './wire/packet.ts'
import type { PlainPublish } from './wire/plain-publish.ts'
import { reason } from './wire/reason.ts'

type ReceptionOptions = {
  connection: Connection
  gate: Gate
  quarantine: Quarantine
  /** Serves the connection as a device's; told of its end whoever served it. */
  device: LinkEvents
}

/** Where a listener quarantines: decides at CONNECT which of two serves a connection, and passes on to it what comes. */
export class Reception implements LinkEvents {
  readonly #options: ReceptionOptions
  #quarantined: QuarantineSession | undefined

  constructor(options: ReceptionOptions) {
    this.#options = options
  }

  get #handler(): LinkEvents {
    return this.#quarantined ?? this.#options.device
  }

  connect(packet: Connect): void {
    const { link } = this.#options.connection
    this.#choose(packet).catch(() => link.fail(reason.unspecifiedError))
  }

  publish(packet: Publish): void {
    this.#handler.publish(packet)
  }

  passOn(publish: PlainPublish): number | undefined {
    return this.#handler.passOn?.(publish)
  }

  released(packetId: number): void {
    this.#handler.released(packetId)
  }

  subscribe(packet: Subscribe): void {
    this.#handler.subscribe(packet)
  }

  unsubscribe(packet: Unsubscribe): void {
    this.#handler.unsubscribe(packet)
  }

  acknowledged(packetId: number, code: number): void {
    this.#handler.acknowledged(packetId, code)
  }

  received(packetId: number): void {
    this.#handler.received(packetId)
  }

  room(): void {
    this.#handler.room()
  }

  dropped(why: Dropped, topic: string): void {
    this.#handler.dropped?.(why, topic)
  }

  disconnected(goodbye: Goodbye): void {
    this.#handler.disconnected(goodbye)
  }

  closed(end: LinkEnd): void {
    this.#quarantined?.closed()
    this.#options.device.closed(end)
  }

  async #choose(packet: Connect): Promise<void> {
    const { connection, gate, quarantine } = this.#options
    const verdict = await gate.examine(connection, packet.clientId)
    if (connection.cut || connection.state === 'closed') return
    if (verdict.policy === 'quarantine') {
      connection.verdict = verdict
      this.#quarantined = new QuarantineSession(connection, quarantine, packet.clientId)
    }
    this.#handler.connect(packet)
  }
}
