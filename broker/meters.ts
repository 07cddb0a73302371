import type { BrokerMetric } from '../contract/metrics.ts'
import { Tally, type Tell } from '../runtime/metrics.ts'
import type { Readiness } from '../runtime/probes.ts'
import type { SessionStore } from './backends/session-store.ts'
import type { Refusal } from './denials.ts'
import type { RetainedMessages } from './retained.ts'
import type { FeedClient } from './trust/feed-client.ts'
import type { Snapshot } from './trust/snapshot.ts'
import type { LinkCounters } from './wire/link-events.ts'

/** What came of a connection; without a state it never came to a verification. */
type Outcome = { listener: string; state?: string | undefined; action: string }

type Read = {
  sessions: Iterable<{ state: string; rules: { name: string }; link: { counters: LinkCounters } | undefined }>
  store: Pick<SessionStore, 'counts'>
  retained: Pick<RetainedMessages, 'counts'>
  feed: Pick<FeedClient, 'connected' | 'knownAt' | 'waiting'>
  snapshot: Pick<Snapshot, 'cursor'>
  ready: Readiness
  certificateEnds: Date
  now: Date
}

/** What a broker counts as it happens; the rest of its metrics is read where it is. The path of a message has nothing of either. */
export class Meters {
  readonly #handshakes = new Tally()
  readonly #refusals = new Tally()
  readonly #ended = {
    packetsIn: 0,
    bytesIn: 0,
    packetsOut: 0,
    bytesOut: 0,
    messagesIn: 0,
    messagesOut: 0,
    slow: 0,
    tooLarge: 0,
    expired: 0,
  }

  decided({ listener, state = 'unknown', action }: Outcome): void {
    this.#handshakes.add(1, listener, state, action)
  }

  refused({ stage, cause, times = 1 }: Pick<Refusal, 'stage' | 'cause' | 'times'>): void {
    this.#refusals.add(times, stage, cause)
  }

  /** A connection is in no list any more: what it counted goes on counting here. */
  ended(counters: LinkCounters): void {
    add(this.#ended, counters)
  }

  read(
    tell: Tell<BrokerMetric>,
    { sessions, store, retained, feed, snapshot, ready, certificateEnds, now }: Read,
  ): void {
    const open = new Tally()
    const traffic = { ...this.#ended }
    for (const { state, rules, link } of sessions) {
      open.add(1, rules.name, state)
      if (link !== undefined) add(traffic, link.counters)
    }
    for (const [count, labels] of open) tell('fleetgate_broker_connections', count, ...labels)
    for (const [count, labels] of this.#handshakes) tell('fleetgate_broker_handshakes_total', count, ...labels)
    for (const [count, labels] of this.#refusals) tell('fleetgate_broker_refusals_total', count, ...labels)
    tell('fleetgate_broker_messages_received_total', traffic.messagesIn)
    tell('fleetgate_broker_messages_sent_total', traffic.messagesOut)
    tell('fleetgate_broker_packets_received_total', traffic.packetsIn)
    tell('fleetgate_broker_packets_sent_total', traffic.packetsOut)
    tell('fleetgate_broker_received_bytes_total', traffic.bytesIn)
    tell('fleetgate_broker_sent_bytes_total', traffic.bytesOut)
    tell('fleetgate_broker_messages_dropped_total', traffic.slow, 'slow_reader')
    tell('fleetgate_broker_messages_dropped_total', traffic.tooLarge, 'packet_too_large')
    tell('fleetgate_broker_messages_dropped_total', traffic.expired, 'expired')
    const { sessions: kept, messages, bytes } = store.counts
    tell('fleetgate_broker_sessions', kept)
    tell('fleetgate_broker_queued_messages', messages)
    tell('fleetgate_broker_queued_bytes', bytes)
    tell('fleetgate_broker_retained_messages', retained.counts.messages)
    tell('fleetgate_broker_feed_connected', Number(feed.connected))
    if (feed.knownAt) tell('fleetgate_broker_feed_age_seconds', (now.getTime() - feed.knownAt.getTime()) / 1_000)
    tell('fleetgate_broker_feed_sequence', snapshot.cursor.seq)
    tell('fleetgate_broker_feed_waiting_events', feed.waiting)
    for (const [part, fault] of Object.entries(ready)) tell('fleetgate_broker_ready', Number(fault === undefined), part)
    tell('fleetgate_broker_certificate_not_after_seconds', certificateEnds.getTime() / 1_000)
  }
}

type Traffic = Omit<LinkCounters, 'dropped'> & LinkCounters['dropped']

function add(sum: Traffic, { dropped, ...rest }: LinkCounters): void {
  for (const [name, count] of Object.entries({ ...rest, ...dropped })) sum[name as keyof Traffic] += count
}
