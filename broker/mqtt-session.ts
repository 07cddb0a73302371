import type { ProblemCode } from '../contract/problems.ts'
import { isFleetError } from '../runtime/errors.ts'
import { ownOf } from './backends/queue-entries.ts'
import type { Message } from './backends/session-store.ts'
import { termsOf } from './connect-policy.ts'
import { refusedOf } from './denials.ts'
import { isStored, Lanes } from './fast-path.ts'
import { expiryMs, messageOf, messageOfPlain, storedWill } from './messages.ts'
import { type ConnectRefusal, type MqttContext, noteEnded, noteRefused, warnOfStore, who } from './mqtt-context.ts'
import { PublishBacklog } from './publish-backlog.ts'
import { later, PublishGuard, pass } from './publish-guard.ts'
import { reasonOf } from './refusals.ts'
import type { Carried } from './router.ts'
import { SessionPump } from './session-pump.ts'
import { SessionSubscriptions } from './session-subscriptions.ts'
import type { Connection, EndReason, Receiver } from './sessions.ts'
import { noteBehind, noteUndelivered, Undelivered } from './undelivered.ts'
import type { BusClient, Listener } from './wire/aedes-port.ts'
import type { Dropped, Goodbye, LinkEnd, LinkEvents } from './wire/link-events.ts'
import type { Connect, Publish, Subscribe, Unsubscribe } from './wire/packet.ts'
import type { PlainPublish } from './wire/plain-publish.ts'
import { reason } from './wire/reason.ts'
import type { Delivery } from './wire/route-index.ts'

/** Serves MQTT on one connection: each packet is one call into a neighbour. */
export class MqttSession implements LinkEvents, Listener<Carried>, Receiver {
  readonly #connection: Connection
  readonly #context: MqttContext
  readonly #finished: () => void
  readonly #guard: PublishGuard
  readonly #lanes: Lanes | undefined
  readonly #undelivered: Undelivered
  #opening: Promise<void> | undefined
  #epoch: number | undefined
  #expiryMs = 0
  #hasWill = false
  #hasPromptWill = false
  #isResumed = false
  #bus: BusClient | undefined
  #pump: SessionPump | undefined
  #subscriptions: SessionSubscriptions | undefined
  #goodbye: Goodbye | undefined
  readonly #backlog = new PublishBacklog()

  constructor(connection: Connection, context: MqttContext) {
    this.#connection = connection
    this.#context = context
    this.#guard = new PublishGuard(connection, context)
    this.#undelivered = new Undelivered(connection, context)
    const { fastPath } = context
    this.#lanes = fastPath && new Lanes(fastPath, connection)
    const { promise, resolve } = Promise.withResolvers<void>()
    connection.finished = promise
    this.#finished = resolve
  }

  get #isLive(): boolean {
    return this.#connection.state === 'live' && !this.#connection.cut
  }

  get #isGone(): boolean {
    return this.#connection.state === 'closed' || this.#connection.cut
  }

  /** Nothing else is read until this is answered, and nothing at all behind a refusal [MQTT-3.1.4-6]. */
  connect(packet: Connect): void {
    this.#opening = this.#open(packet).catch((error) => this.#failed(error))
  }

  publish(packet: Publish): void {
    const { gate, router, clock } = this.#context
    if (!this.#isLive) return
    const code = this.#guard.judge(packet)
    if (code > pass) {
      // Before version 5 there is no refusal: acknowledged, or the client would repeat it for ever ([MQTT-3.3.5-2] of 3.1.1).
      this.#acknowledge(packet, code, this.#guard.sentence)
      return
    }
    if (code === pass) this.#connection.link.taken.note('publish', packet.topic)
    if (code === pass && this.#deliverAtOnce(packet)) return
    const message = gate.stamped(messageOf(packet, this.clientId, clock().getTime()))
    const mayBeKnown = packet.qos === 2 && this.#isResumed
    if (code === pass && this.#backlog.isEmpty && !packet.retain && !mayBeKnown) {
      this.#answer(packet, router.route(message, this.#incomingOf(packet)))
      return
    }
    if (packet.qos === 0 && this.#backlog.isFull(packet.payload.length)) {
      noteBehind(this.#context, this.#connection, packet)
      return // at most once
    }
    this.#backlog.add(packet.payload.length, async () => {
      try {
        const turn = code === later ? await this.#guard.turn(packet) : pass
        if (turn > pass) this.#acknowledge(packet, turn, this.#guard.sentence)
        if (code === later && turn === pass) this.#connection.link.taken.note('publish', packet.topic)
        if (turn === pass) await this.#publishInTurn(packet, message, mayBeKnown)
      } catch (error) {
        this.#failed(error)
      }
    })
  }

  passOn(publish: PlainPublish): number | undefined {
    const audience = this.#lanes?.find(publish)
    if (audience === undefined || !this.#isFirst || this.#guard.mayDelay(publish.qos)) return undefined
    const { router, gate, clock } = this.#context
    const isKept = isStored(audience, publish.qos)
    const bytes = publish.topic.length + publish.payload.length
    if (isKept ? !router.mayEnqueueAtOnce(audience, bytes) : audience.links === undefined) return undefined
    const code = this.#guard.judge(publish)
    if (code !== pass) {
      publish.sentence = this.#guard.sentence
      return code
    }
    if (isKept) {
      const message = messageOfPlain(publish, this.clientId, clock().getTime())
      router.enqueueAtOnce(gate.stamped(message), audience)
    } else for (const link of audience.links!) link.forward(publish)
    return reasonFor(audience.isWanted)
  }

  released(packetId: number): void {
    const { link, clientId } = this.#connection
    this.#watch(
      this.#context.store.incoming(clientId!, this.#epoch!, packetId, 'take').then((isKnown) => {
        link.send({
          type: 'pubcomp',
          packetId,
          reason: isKnown ? reason.success : reason.packetIdentifierNotFound,
        })
      }),
    )
  }

  subscribe(packet: Subscribe): void {
    this.#watch(this.#subscriptions!.subscribe(packet))
  }

  unsubscribe(packet: Unsubscribe): void {
    this.#watch(this.#subscriptions!.unsubscribe(packet))
  }

  acknowledged(packetId: number): void {
    this.#pump?.acknowledged(packetId)
  }

  received(packetId: number): void {
    this.#pump?.received(packetId)
  }

  room(): void {
    this.#pump?.room()
    this.#subscriptions?.room()
  }

  dropped(why: Dropped, topic: string): void {
    this.#undelivered.dropped(why, topic)
  }

  disconnected(goodbye: Goodbye): void {
    this.#goodbye = goodbye
  }

  closed(end: LinkEnd): void {
    void this.#end(end).finally(this.#finished)
  }

  /** Before the broker stops, while those who shall get it are still connected. */
  async publishWill(): Promise<void> {
    if (!this.#isLive || !this.#hasPromptWill || this.#epoch === undefined) return
    await this.#context.wills.publishNow(this.#connection.clientId!, this.#epoch)
  }

  /** Resolves when what waits for the client has gone out. */
  async drained(): Promise<void> {
    await this.#pump?.untilIdle()
  }

  async #open(packet: Connect): Promise<void> {
    const { gate } = this.#context
    const connection = this.#connection
    const { clientId, clean, version, will, username, password } = packet
    // Version 5 gives an id to who begins anew and to who does not; what was kept under it is the device's own.
    const admission = await gate.connect(connection, {
      clientId,
      clean: clean || version === 5,
      will,
      username,
      password,
    })
    if (admission === undefined) return // gone meanwhile
    if (!admission.admitted) {
      connection.clientId = clientId
      this.#refuse(admission, packet)
      return
    }
    try {
      await this.#establish(packet)
    } catch (error) {
      if (!isFleetError(error)) throw error
      warnOfStore(this.#context, error)
      this.#refuse({ reason: error.code, message: error.message }, packet)
    } finally {
      admission.endTurn?.()
    }
  }

  /** In its turn: the session, its will, its place on the bus; then the client is told. */
  async #establish(packet: Connect): Promise<void> {
    const { config, gate, sessions, store, index, bus, wills, linkLimits, clock, log } = this.#context
    const { firstUses, presence } = this.#context
    const connection = this.#connection
    const clientId = connection.clientId!
    const asked = packet.properties?.sessionExpiryInterval ?? 0
    this.#expiryMs = expiryMs(asked, config.sessionExpiryMs)
    const claim = await store.claim(clientId, config.id, { keepMs: this.#expiryMs, clean: packet.clean })
    this.#epoch = claim.epoch
    this.#isResumed = claim.present
    if (claim.displaced !== undefined) index.removeClient(claim.displaced)
    if (!claim.present) index.removeClient(clientId)
    if (claim.isWillLeft) wills.look()
    if (packet.will !== undefined) {
      const der = connection.certificate?.der
      await store.putWill(clientId, claim.epoch, storedWill(packet.will, clientId, der, clock().getTime()))
      this.#hasWill = true
      this.#hasPromptWill = (packet.will.properties?.willDelayInterval ?? 0) === 0
    }
    if (this.#isGone) return
    this.#bus = bus.attach(this)
    this.#subscriptions = new SessionSubscriptions(connection, this.#context, {
      epoch: claim.epoch,
      bus: this.#bus,
      mayReceive: (topic) => this.mayReceive(topic),
      untilIdle: () => this.drained(),
      untilRoom: async (mostBytes) => this.#pump?.untilRoom(mostBytes),
    })
    await this.#subscriptions.restore()
    if (this.#isGone) return
    const matcher = gate.matcherOf(connection)
    const { inFlight = 0xffff } = matcher.limits
    const isCut = this.#expiryMs < expiryMs(asked, Number.POSITIVE_INFINITY)
    const { serverKeepAlive, properties } = termsOf(matcher, packet, linkLimits)
    connection.link.accept({
      sessionPresent: claim.present,
      ...(serverKeepAlive === undefined ? {} : { serverKeepAlive }),
      ...(packet.clientId === '' ? { assignedClientId: clientId } : {}),
      properties: {
        ...properties,
        ...(isCut ? { sessionExpiryInterval: Math.floor(this.#expiryMs / 1_000) } : {}),
      },
    })
    connection.link.taken.note('connect')
    sessions.opened(connection, this)
    presence.opened(connection)
    gate.letIn(connection)
    this.#pump = new SessionPump({
      store,
      link: connection.link,
      clientId,
      epoch: claim.epoch,
      window: Math.min(linkLimits.maxInflight, inFlight, packet.properties?.receiveMaximum ?? 0xffff),
      mayDeliver: (message) => !gate.isVoid(message, 'queued') && this.mayReceive(message.topic),
      isGone: () => this.#isGone,
      onFailed: (error) => this.#failed(error),
    })
    this.#pump.wake()
    void firstUses.note(connection)
    const { isResumed: resumed } = connection
    log.info({ event: 'session.opened', ...who(connection), version: packet.version, resumed }, 'session opened')
  }

  get clientId(): string {
    return this.#connection.clientId!
  }

  wants({ message, entries }: Carried): boolean {
    return entries.has(this.clientId) && this.mayReceive(message.topic)
  }

  take({ message, entries }: Carried): void {
    this.deliver(message, entries.get(this.clientId)!)
  }

  lost(): void {
    this.#connection.close('internal')
  }

  /** There is more in the stored queue. */
  wake(): void {
    this.#pump?.wake()
  }

  /** At QoS 0. */
  deliver(message: Message, { retainAsPublished, identifiers }: Delivery): void {
    if (!this.#isLive) return
    const retain = message.retain && retainAsPublished
    this.#connection.link.deliver(message, { qos: 0, retain, identifiers })
  }

  /** @returns whether it was, and nothing is left to do */
  #deliverAtOnce(packet: Publish): boolean {
    if (packet.retain || packet.qos === 2) return false
    const audience = this.#lanes?.get(packet.topic)
    if (audience === undefined || !this.#isFirst) return false
    const { router, gate, clock } = this.#context
    const isKept = isStored(audience, packet.qos)
    if (isKept && !router.mayEnqueueAtOnce(audience, packet.topic.length + packet.payload.length)) return false
    if (audience.receivers.length > 0) {
      const message = messageOf(packet, this.clientId, clock().getTime())
      if (isKept) router.enqueueAtOnce(gate.stamped(ownOf(message)), audience)
      else for (const { receiver, delivery } of audience.receivers) receiver.deliver(message, delivery)
    }
    this.#acknowledge(packet, reasonFor(audience.isWanted))
    return true
  }

  /** What is passed on now overtakes nothing that this client has sent before [MQTT-4.6.0-5] [MQTT-4.6.0-6]. */
  get #isFirst(): boolean {
    return this.#backlog.isEmpty && !this.#context.router.isUnderWay(this.clientId)
  }

  async #publishInTurn(packet: Publish, message: Message, mayBeKnown: boolean): Promise<void> {
    const { gate, store, router } = this.#context
    const { clientId } = this.#connection
    // A client that said goodbye meanwhile is served to the end; one that was cut off is not (trap T14).
    if (this.#connection.cut) return
    if (mayBeKnown && (await store.incoming(clientId!, this.#epoch!, packet.packetId, 'has'))) {
      this.#acknowledge(packet, reason.success) // [MQTT-4.3.3-10]
      return
    }
    if (this.#connection.cut) return
    if (packet.retain) await router.retain(message, gate.matcherOf(this.#connection).limits)
    if (this.#connection.cut) return
    this.#answer(packet, router.route(message, this.#incomingOf(packet)))
  }

  #incomingOf({ qos, packetId }: Publish) {
    return qos === 2 ? { clientId: this.#connection.clientId!, epoch: this.#epoch!, packetId } : undefined
  }

  /** PUBACK and PUBREC promise that the message is stored for everybody. */
  #answer(packet: Publish, routed: Promise<boolean>): void {
    this.#watch(routed.then((isWanted) => this.#acknowledge(packet, reasonFor(isWanted))))
  }

  #acknowledge({ qos, packetId }: Publish, code: number, sentence = ''): void {
    if (qos === 0) return
    const properties = sentence === '' ? {} : { properties: { reasonString: sentence } }
    this.#connection.link.send({ type: qos === 1 ? 'puback' : 'pubrec', packetId, reason: code, ...properties })
  }

  /** The net under every delivery: live, retained, queued, of a restored session (trap T8). */
  mayReceive(topic: string): boolean {
    const { gate } = this.#context
    if (!this.#isLive) return false
    if (gate.matcherOf(this.#connection).allowsDelivery(topic)) return true
    noteUndelivered(this.#context, this.#connection, topic)
    return false
  }

  #refuse(refusal: ConnectRefusal, { will }: Connect): void {
    const { link } = this.#connection
    link.refuse(reasonOf(refusal.reason), noteRefused(this.#context, this.#connection, refusal, will))
  }

  #watch(done: Promise<unknown>): void {
    done.catch((error) => this.#failed(error))
  }

  /** The client repeats on its next connection what was not acknowledged on this one. */
  #failed(error: unknown): void {
    const connection = this.#connection
    if (this.#isGone) return
    const isOurs = isFleetError(error)
    if (isOurs) warnOfStore(this.#context, error)
    else this.#context.log.error({ event: 'broker.failed', err: error }, 'a packet could not be handled')
    connection.close(isOurs ? error.code : 'internal')
  }

  /** After the connection: its place on the bus, its session, then the will; then the client id is free. */
  async #end(end: LinkEnd): Promise<void> {
    const { sessions, fastPath, log, presence, meters } = this.#context
    const connection = this.#connection
    const wasLive = connection.state === 'live'
    sessions.remove(connection)
    meters.ended(connection.link.counters)
    fastPath?.refresh()
    const said = end.code === 'closed' ? 'internal' : end.code
    const why: EndReason = connection.endReason ?? said
    if (!wasLive && connection.endReason === undefined && !isOwnWay(why)) {
      const refusal = { stage: 'connect', cause: why, message: end.sentence } as const
      this.#context.gate.refused(refusedOf(connection), refusal, who(connection))
    }
    this.#undelivered.flush()
    if (wasLive) {
      if (!isOwnWay(why)) noteEnded(this.#context, connection, why, end.sentence)
      presence.closed(connection, why)
    }
    if (end.cause !== undefined) log.error({ event: 'broker.failed', err: end.cause }, 'a packet could not be handled')
    this.#guard.stop()
    this.#pump?.stop()
    this.#subscriptions?.room()
    await this.#opening
    this.#pump?.stop()
    await this.#bus?.close()
    await this.#leave(wasLive)
    sessions.release(connection)
    if (!wasLive) return
    const { packetsIn, bytesIn, bytesOut } = connection.link.counters
    log.info(
      {
        event: 'session.closed',
        reason: why,
        ...(end.sentence === '' ? {} : { detail: end.sentence }),
        ...(connection.denial === undefined ? {} : { denial: connection.denial }),
        ...who(connection),
        packetsIn,
        bytesIn,
        bytesOut,
      },
      'session closed',
    )
  }

  async #leave(wasLive: boolean): Promise<void> {
    const { index, config, wills, clock } = this.#context
    const { clientId, cut } = this.#connection
    const epoch = this.#epoch
    if (epoch === undefined || clientId === undefined) return
    const { sessionExpiry, willDue = true } = this.#goodbye ?? {}
    const keepMs = sessionExpiry === undefined ? this.#expiryMs : expiryMs(sessionExpiry, config.sessionExpiryMs)
    const isWillDue = this.#hasWill && wasLive && willDue && !cut
    if (keepMs === 0) index.removeClient(clientId)
    await wills.leave({
      clientId,
      epoch,
      dropsWill: this.#hasWill && !isWillDue,
      keepUntil: keepMs === 0 ? 'forget' : clock().getTime() + keepMs,
    })
    if (isWillDue) await wills.publishDue()
  }
}

const reasonFor = (isWanted: boolean): number => (isWanted ? reason.success : reason.noMatchingSubscribers)

function isOwnWay(why: EndReason): why is Exclude<EndReason, ProblemCode> {
  return why === 'keep_alive_expired' || why === 'connection_lost' || why === 'disconnected' || why === 'shutdown'
}
