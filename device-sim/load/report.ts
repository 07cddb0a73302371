import { availableParallelism } from 'node:os'
import type { Histogram } from './histogram.ts'
import type { LoadOptions } from './load.ts'
import type { Failure, Tally } from './tally.ts'

/** Milliseconds. */
export type Latency = { p50: number; p90: number; p99: number; p999: number; max: number }

/** What `-o json` prints, and what both charts are drawn from. */
export type LoadReport = {
  startedAt: string
  endedBy: 'itself' | 'interruption'
  /** No failure, and everything arrived. */
  ok: boolean
  settings: {
    mqtts: string
    version: string
    qos: number
    payloadBytes: number
    connectsPerSecond: number
    messagesPerSecond: number
    seconds: number
    subscribers: number
    processes: number
    cores: number
    node: string
  }
  enrolled: { wanted: number; count: number; ms: number }
  /** Latency from when a device was to connect until the broker had accepted it. */
  connected: { wanted: number; count: number; ms: number; perSecond: number; latencyMs: Latency; ended: number }
  /**
   * Latency from when a message was to be sent until a subscriber had it. `lateness` is the part of it that the load itself
   * took to send; a message of QoS 1 or 2 is acknowledged by the broker.
   */
  messages: {
    wanted: number
    sent: number
    acknowledged: number
    expected: number
    received: number
    lost: number
    sentPerSecond: number
    receivedPerSecond: number
    latencyMs: Latency
    latenessMs: Latency
  }
  failures: Failure[]
  /** Of the processes with devices, when all were connected and in all. */
  resources: { rssBytes: number; rssBytesPerDevice: number; cpuMs: number }
  /** From the first connection on. Latency in milliseconds, null where nothing arrived. */
  seconds: {
    second: number
    connects: number
    connected: number
    sent: number
    received: number
    p50: number | null
    p99: number | null
  }[]
}

type Facts = {
  startedAt: Date
  options: LoadOptions
  isInterrupted: boolean
  subscribers: number
  wanted: { devices: number; messages: number }
  enrolled: { count: number; ms: number }
  connectingMs: number
  sendingMs: number
  tally: Tally
  rssBytes: number
  cpuMs: number
  processes: number
}

export function reportOf(facts: Facts): LoadReport {
  const { options, tally, wanted, enrolled, connectingMs, sendingMs, subscribers } = facts
  const { totals, seconds, failures } = tally
  const expected = totals.sent * subscribers
  const lost = Math.max(0, expected - totals.received)
  return {
    startedAt: facts.startedAt.toISOString(),
    endedBy: facts.isInterrupted ? 'interruption' : 'itself',
    ok: !facts.isInterrupted && failures.length === 0 && lost === 0 && totals.sent === wanted.messages,
    settings: {
      mqtts: options.mqtts,
      version: options.version,
      qos: options.qos,
      payloadBytes: options.payload,
      connectsPerSecond: options.rate,
      messagesPerSecond: options.messages,
      seconds: options.seconds,
      subscribers,
      processes: facts.processes,
      cores: availableParallelism(),
      node: process.versions.node,
    },
    enrolled: { wanted: wanted.devices, count: enrolled.count, ms: round(enrolled.ms) },
    connected: {
      wanted: wanted.devices,
      count: totals.connected,
      ms: round(connectingMs),
      perSecond: perSecond(totals.connected, connectingMs),
      latencyMs: latencyOf(tally.connecting),
      ended: totals.ended,
    },
    messages: {
      wanted: wanted.messages,
      sent: totals.sent,
      acknowledged: totals.acknowledged,
      expected,
      received: totals.received,
      lost,
      sentPerSecond: perSecond(totals.sent, sendingMs),
      receivedPerSecond: perSecond(totals.received, sendingMs),
      latencyMs: latencyOf(tally.latency),
      latenessMs: latencyOf(tally.lateness),
    },
    failures,
    resources: {
      rssBytes: facts.rssBytes,
      rssBytesPerDevice: Math.round(facts.rssBytes / Math.max(1, totals.connected)),
      cpuMs: round(facts.cpuMs),
    },
    seconds: secondsOf(seconds),
  }
}

function secondsOf(seconds: Tally['seconds']): LoadReport['seconds'] {
  let live = 0
  return seconds.map(({ connected, ended, sent, received, latency }, second) => {
    live += connected - ended
    const [p50, p99] = [50, 99].map((p) => (latency.count === 0 ? null : ms(latency.percentile(p))))
    return { second, connects: connected, connected: live, sent, received, p50: p50!, p99: p99! }
  })
}

const latencyOf = (histogram: Histogram): Latency => ({
  p50: ms(histogram.percentile(50)),
  p90: ms(histogram.percentile(90)),
  p99: ms(histogram.percentile(99)),
  p999: ms(histogram.percentile(99.9)),
  max: ms(histogram.maxUs),
})

const ms = (us: number): number => Math.round(us / 10) / 100
const perSecond = (count: number, inMs: number): number => (inMs > 0 ? round((count * 1_000) / inMs) : 0)
const round = (value: number): number => Math.round(value * 10) / 10
