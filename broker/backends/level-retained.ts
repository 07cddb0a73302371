import { isGatewayTopic, topicMatches } from '../../contract/topics.ts'
import type { Operation } from '../store.ts'
import type { DiskReads } from './disk-reads.ts'
import { decodeMessage, encodeMessage, keys } from './session-records.ts'
import { deviceIn, noteRetained, type State, unnoteRetained } from './session-state.ts'
import { type DeviceQuota, deviceOf, type Message } from './session-store.ts'

// Small, as a page holds payloads.
const pageSize = 64

/**
 * Retained messages: sizes and owners in memory, messages on disk in the order of their topics. Those of the gateway itself
 * are on disk alone: they have no quota and no end.
 */
export class RetainedStore {
  readonly #state: State
  readonly #disk: DiskReads
  readonly #quotaOf: (deviceId: string) => DeviceQuota
  readonly #now: () => number
  #version = 0
  /** Topics whose messages expired and were removed, until somebody is told. */
  #swept: string[] = []
  #nextExpiry = Number.POSITIVE_INFINITY

  constructor(
    state: State,
    options: { disk: DiskReads; quotaOf: (deviceId: string) => DeviceQuota; now: () => number },
  ) {
    this.#state = state
    this.#disk = options.disk
    this.#quotaOf = options.quotaOf
    this.#now = options.now
    for (const { expiresAt } of state.retained.values()) this.#nextExpiry = Math.min(this.#nextExpiry, expiresAt)
  }

  /** @returns false when the quota of the publisher's device does not allow it */
  change(topic: string, message: Message | null, operations: Operation[]): boolean {
    if (isGatewayTopic(topic)) {
      const key = keys.retained(topic)
      operations.push(message === null ? { type: 'del', key } : { type: 'put', key, value: encodeMessage(message) })
      return true
    }
    if (message === null) {
      if (!this.#state.retained.has(topic)) return true
      unnoteRetained(this.#state, topic)
      operations.push({ type: 'del', key: keys.retained(topic) })
      return true
    }
    const value = encodeMessage(message)
    const deviceId = deviceOf(message.from)
    const quota = this.#quotaOf(deviceId)
    const device = this.#state.devices.get(deviceId)
    const before = this.#state.retained.get(topic)
    const replaced = before !== undefined && before.device === device ? { count: 1, bytes: before.bytes } : nothing
    if (
      (device?.retained ?? 0) - replaced.count + 1 > quota.retained ||
      (device?.retainedBytes ?? 0) - replaced.bytes + value.length > quota.retainedBytes
    ) {
      return false
    }
    unnoteRetained(this.#state, topic)
    const { expiresAt = Number.POSITIVE_INFINITY } = message
    const version = ++this.#version
    noteRetained(this.#state, topic, {
      device: deviceIn(this.#state, deviceId),
      bytes: value.length,
      expiresAt,
      version,
    })
    this.#nextExpiry = Math.min(this.#nextExpiry, expiresAt)
    operations.push({ type: 'put', key: keys.retained(topic), value })
    return true
  }

  sweep(now: number, operations: Operation[]): void {
    if (this.#nextExpiry > now) return
    this.#nextExpiry = Number.POSITIVE_INFINITY
    for (const [topic, { expiresAt }] of this.#state.retained) {
      if (expiresAt <= now) {
        this.change(topic, null, operations)
        this.#swept.push(topic)
      } else this.#nextExpiry = Math.min(this.#nextExpiry, expiresAt)
    }
  }

  ofDevice(deviceId: string): string[] {
    const { devices, retained } = this.#state
    const device = devices.get(deviceId)
    // Asked of each device that was ever revoked; most have nothing.
    if (device === undefined || device.retained === 0) return []
    return [...retained].flatMap(([topic, note]) => (note.device === device ? [topic] : []))
  }

  takeSwept(): string[] {
    const swept = this.#swept
    this.#swept = []
    return swept
  }

  async *find(filters: readonly string[]): AsyncGenerator<Message> {
    for (const [at, filter] of filters.entries()) {
      const earlier = filters.slice(0, at)
      for await (const message of filter.search(/[+#]/) < 0 ? this.#named(filter) : this.#matching(filter)) {
        if (!earlier.some((other) => topicMatches(other, message.topic))) yield message
      }
    }
  }

  async *#named(topic: string): AsyncGenerator<Message> {
    if (!this.#isCurrent(topic)) return
    const [value] = await this.#disk.getMany([keys.retained(topic)])
    if (value !== undefined) yield decodeMessage(value)
  }

  /** In pages, so that a reader that takes its time keeps nothing open. */
  async *#matching(filter: string): AsyncGenerator<Message> {
    // What stands before the first wildcard; `a/#` matches `a` too (4.7.1.2).
    const prefix = keys.retained(filter.slice(0, filter.search(/[+#]/)).replace(/\/$/, ''))
    for (let after = ''; ; ) {
      const version = this.#version
      const page = await this.#disk.page(prefix, after, pageSize)
      for (const [key, value] of page) {
        const topic = key.slice(1)
        if (!topicMatches(filter, topic) || !this.#isCurrent(topic)) continue
        // The reader may have heard meanwhile what has replaced it, and must not get the older one after that.
        if ((this.#state.retained.get(topic)?.version ?? 0) > version) yield* this.#named(topic)
        else yield decodeMessage(value)
      }
      if (page.length < pageSize) return
      after = page.at(-1)![0]
    }
  }

  #isCurrent(topic: string): boolean {
    if (isGatewayTopic(topic)) return true
    const note = this.#state.retained.get(topic)
    return note !== undefined && note.expiresAt > this.#now()
  }
}

const nothing = { count: 0, bytes: 0 }
