/** Many devices in one process: what `device-sim load` starts, and tells what to do. */
import { setTimeout as delay, setImmediate } from 'node:timers/promises'
import { EstClient, type Trust } from '../est-client.ts'
import type { Identity } from '../identity.ts'
import { inParallel } from '../observation.ts'
import { LoadConnection, LoadFailure, type Qos, type Version } from './connection.ts'
import { identityFor, type Participant } from './identities.ts'
import { dueOf, stamped, templateOf } from './message.ts'
import { monotonicUs, Tally, type TallyPart } from './tally.ts'

export type Plan = {
  est: string
  mqtts: string
  trust: Trust
  dir: string
  participants: Participant[]
  /** The participants hear what the others say, and say nothing. */
  isAudience: boolean
  version: Version
  qos: Qos
  payloadBytes: number
  /** Tells the messages of this run from those of another. */
  run: number
}
/** What is asked for one after the other; each is answered with `done`, a `stop` in between makes that come soon. */
export type Order =
  | { kind: 'prepare'; plan: Plan }
  /** The seconds of what is told are counted from `baseUs` on. */
  | { kind: 'connect'; baseUs: number; startUs: number; perSecond: number }
  | { kind: 'send'; startUs: number; perSecond: number; seconds: number }
  | { kind: 'stop' }
  | { kind: 'close' }
export type Told =
  | { kind: 'prepared' }
  | { kind: 'tally'; part: TallyPart }
  | { kind: 'done'; rssBytes: number; cpuMs: number }
  | { kind: 'broken'; message: string }

const enrollingAtOnce = 4
const connectingAtOnce = 64
const tellEveryMs = 250
const topicOf = (id: string): string => `devices/${id}/telemetry/load`
const everybody = topicOf('+')

type Member = { id: string; topic: string; identity: Identity; connection?: LoadConnection }

/** @param send to the process that asked */
class Worker {
  readonly #plan: Plan
  readonly #send: (told: Told) => void
  readonly #stop: AbortSignal
  readonly #members: Member[] = []
  #tally = new Tally(monotonicUs())
  #turn = 0

  constructor(plan: Plan, send: (told: Told) => void, stop: AbortSignal) {
    this.#plan = plan
    this.#send = send
    this.#stop = stop
  }

  async prepare(): Promise<void> {
    const { est: url, trust, dir, participants } = this.#plan
    const est = new EstClient(url, trust)
    await inParallel(participants, enrollingAtOnce, async (participant) => {
      if (this.#stop.aborted) return
      try {
        const identity = await identityFor(participant, dir, est, new Date())
        this.#members.push({ id: participant.id, topic: topicOf(participant.id), identity })
        this.#send({ kind: 'prepared' })
      } catch (error) {
        this.#failed(error)
      }
    })
  }

  async connect({ baseUs, startUs, perSecond }: Extract<Order, { kind: 'connect' }>): Promise<void> {
    this.tell()
    this.#tally = new Tally(baseUs)
    let next = 0
    const lane = async (): Promise<void> => {
      while (next < this.#members.length) {
        const dueUs = startUs + (next * 1e6) / perSecond
        const member = this.#members[next++]!
        await this.#until(dueUs)
        if (this.#stop.aborted) return
        await this.#join(member, dueUs).catch((error: unknown) => this.#failed(error))
      }
    }
    await Promise.all(Array.from({ length: connectingAtOnce }, lane))
  }

  async send({ startUs, perSecond, seconds }: Extract<Order, { kind: 'send' }>): Promise<void> {
    const wanted = this.#plan.isAudience ? 0 : Math.floor(perSecond * seconds)
    const template = templateOf(this.#plan.run, this.#plan.payloadBytes)
    // Messages that are late by then would tell of the load and not of the broker.
    const endUs = startUs + (seconds + 1) * 1e6
    for (let n = 0; n < wanted && !this.#stop.aborted; ) {
      const nowUs = monotonicUs()
      if (nowUs > endUs) return
      const due = Math.min(wanted, Math.floor(((nowUs - startUs) * perSecond) / 1e6) + 1)
      while (n < due) {
        const member = this.#nextReady()
        if (member === undefined) break
        this.#publish(member, template, startUs + (n++ * 1e6) / perSecond)
      }
      // So that what has come in meanwhile is looked at.
      await (n < due ? setImmediate() : delay(1))
    }
  }

  tell(): void {
    this.#send({ kind: 'tally', part: this.#tally.take() })
  }

  close(): void {
    for (const { connection } of this.#members) connection?.close()
  }

  async #join(member: Member, dueUs: number): Promise<void> {
    const { mqtts, trust, version, isAudience, qos } = this.#plan
    const options = { mqtts, rootPem: trust.rootPem, identity: member.identity, clientId: `${member.id}:load`, version }
    const connection = await LoadConnection.open(options, (failure) => {
      this.#tally.count('ended')
      this.#failed(failure)
    })
    this.#tally.count('connected')
    this.#tally.connecting.record(monotonicUs() - dueUs)
    member.connection = connection
    if (isAudience) await connection.subscribe(everybody, qos, (payload) => this.#hear(payload))
  }

  #publish({ topic, connection }: Member, template: Buffer, dueUs: number): void {
    this.#tally.lateness.record(monotonicUs() - dueUs)
    this.#tally.count('sent')
    connection!.publish(topic, stamped(template, dueUs), this.#plan.qos, (failure) => {
      if (failure !== undefined) this.#failed(failure)
      else if (this.#plan.qos > 0) this.#tally.count('acknowledged')
    })
  }

  #hear(payload: Buffer): void {
    const dueUs = dueOf(payload, this.#plan.run)
    if (dueUs !== undefined) this.#tally.received(dueUs)
  }

  #nextReady(): Member | undefined {
    for (let tried = 0; tried < this.#members.length; tried++) {
      const member = this.#members[this.#turn++ % this.#members.length]!
      if (member.connection?.isReady === true) return member
    }
    return undefined
  }

  #failed(error: unknown): void {
    if (error instanceof LoadFailure) this.#tally.failed(error.code, error.message)
    else throw error
  }

  async #until(dueUs: number): Promise<void> {
    const ms = (dueUs - monotonicUs()) / 1e3
    if (ms > 0) await delay(ms, undefined, { signal: this.#stop }).catch(() => undefined)
  }
}

// Who has heard enough hangs up, maybe at this moment.
const send = (told: Told): void => void (process.connected && process.send!(told, () => undefined))
const stop = new AbortController()
let worker: Worker | undefined

async function obey(order: Order): Promise<void> {
  if (order.kind === 'stop') return stop.abort()
  if (order.kind === 'prepare') {
    worker = new Worker(order.plan, send, stop.signal)
    setInterval(() => worker!.tell(), tellEveryMs)
    await worker.prepare()
  } else if (order.kind === 'connect') await worker!.connect(order)
  else if (order.kind === 'send') await worker!.send(order)
  else worker!.close()
  worker!.tell()
  const { user, system } = process.cpuUsage()
  send({ kind: 'done', rssBytes: process.memoryUsage.rss(), cpuMs: (user + system) / 1e3 })
}

// A Ctrl-C of the terminal reaches every process; the one that draws the report says when it is over.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => undefined)
process.on('disconnect', () => process.exit())
process.on('message', (order: Order) => {
  obey(order).catch((error: Error) => send({ kind: 'broken', message: String(error.stack) }))
})
