import { randomInt } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import type { DeviceId } from '../../contract/ids.ts'
import { FleetError } from '../../runtime/errors.ts'
import { fetchTrust } from '../est-client.ts'
import type { Qos, Version } from './connection.ts'
import { Crew } from './crew.ts'
import { type Participant, readParticipants } from './identities.ts'
import { type LoadReport, reportOf } from './report.ts'
import { monotonicUs, Tally } from './tally.ts'

export type LoadOptions = {
  est: string
  mqtts: string
  rootFingerprint: string
  /** Keys and certificates of the devices, a file for each. */
  dir: string
  tokens?: string
  subscriber: DeviceId[]
  /** Without it, as many as there are. */
  devices?: number
  /** Connections begun in a second. */
  rate: number
  /** In a second, of all devices together. */
  messages: number
  seconds: number
  qos: Qos
  /** Octets. */
  payload: number
  processes: number
  version: Version
}

/** Called as it goes on. */
export type Watcher = (phase: 'enrolling' | 'connecting' | 'sending', done: number, of: number) => void

const watchEveryMs = 250
/** So long nothing more has to come before what has not come is taken for lost. */
const silenceMs = 2_000
/** What a process has open beside its devices: itself, and those of its devices that enroll. */
const otherFiles = 100

/**
 * Enrolls who has no certificate yet, connects everybody and has them send, and says what was seen.
 *
 * @param stop ends it early; what was seen until then is told
 * @throws FleetError `config_invalid`, `gateway_untrusted`, or `internal` where a process of ours fails
 */
export async function runLoad(options: LoadOptions, watch: Watcher, stop: AbortSignal): Promise<LoadReport> {
  const startedAt = new Date()
  const { publishers, subscribers } = readParticipants({ ...options, subscribers: options.subscriber })
  const processes = Math.min(options.processes, publishers.length)
  requireFiles(Math.ceil(publishers.length / processes))
  const trust = await fetchTrust(options.est, options.rootFingerprint)

  const tally = new Tally(0)
  let enrolled = 0
  const { est, mqtts, dir, version, qos, payload: payloadBytes } = options
  const run = randomInt(2 ** 32)
  const crewOf = (participants: Participant[], isAudience: boolean): Crew => {
    const plan = { est, mqtts, trust, dir, participants, isAudience, version, qos, payloadBytes, run }
    return new Crew(plan, (told) => {
      if (told.kind === 'tally') tally.add(told.part)
      else if (told.kind === 'prepared') enrolled++
    })
  }
  using crews = new DisposableStack()
  // Who listens has a process of its own, so that what it measures is not what the devices do meanwhile.
  const audience = crews.use(crewOf(subscribers, true))
  const senders = Array.from({ length: processes }, (_, at) =>
    crews.use(
      crewOf(
        publishers.filter((_, index) => index % processes === at),
        false,
      ),
    ),
  )
  const all = [audience, ...senders]
  const stopAll = (): void => {
    for (const crew of all) crew.stop()
  }
  if (stop.aborted) stopAll()
  stop.addEventListener('abort', stopAll, { once: true })
  crews.defer(() => stop.removeEventListener('abort', stopAll))

  const devices = publishers.length + subscribers.length
  const during = async (show: () => void, work: Promise<unknown>): Promise<void> => {
    const timer = setInterval(show, watchEveryMs)
    await work.finally(() => clearInterval(timer))
    show()
  }
  const shareOf = (crew: Crew, whole: number): number => (whole * crew.size) / publishers.length

  const enrolling = performance.now()
  const prepared = Promise.all(all.map((crew) => crew.prepare()))
  await during(() => watch('enrolling', enrolled, devices), prepared)
  const enrollingMs = performance.now() - enrolling

  const baseUs = monotonicUs()
  const connecting = async (): Promise<void> => {
    await audience.order({ kind: 'connect', baseUs, startUs: baseUs, perSecond: options.rate })
    const startUs = monotonicUs()
    const begun = senders.map((crew) =>
      crew.order({ kind: 'connect', baseUs, startUs, perSecond: shareOf(crew, options.rate) }),
    )
    await Promise.all(begun)
  }
  await during(() => watch('connecting', tally.totals.connected, enrolled), connecting())
  const connectingMs = (monotonicUs() - baseUs) / 1e3
  const rssBytes = all.reduce((sum, crew) => sum + crew.rssBytes, 0)

  // A moment ahead, so that no process begins late.
  const startUs = monotonicUs() + 50_000
  const wanted = Math.floor(options.messages * options.seconds)
  const sending = senders.map((crew) =>
    crew.order({ kind: 'send', startUs, perSecond: shareOf(crew, options.messages), seconds: options.seconds }),
  )
  await during(() => watch('sending', tally.totals.sent, wanted), Promise.all(sending))
  const sendingMs = (monotonicUs() - startUs) / 1e3
  await untilSilent(tally, stop)
  await Promise.all(all.map((crew) => crew.order({ kind: 'close' })))

  return reportOf({
    startedAt,
    options,
    isInterrupted: stop.aborted,
    subscribers: subscribers.length,
    wanted: { devices, messages: wanted },
    enrolled: { count: enrolled, ms: enrollingMs },
    connectingMs,
    sendingMs,
    tally,
    rssBytes,
    cpuMs: all.reduce((sum, crew) => sum + crew.cpuMs, 0),
    processes: all.length,
  })
}

/** What is on its way still arrives; each message comes once for each subscriber. */
async function untilSilent({ totals }: Tally, stop: AbortSignal): Promise<void> {
  let received = -1
  while (received < totals.received && !stop.aborted) {
    received = totals.received
    await delay(silenceMs, undefined, { signal: stop }).catch(() => undefined)
  }
}

/** @throws FleetError `config_invalid` where the system lets a process have fewer open files than it takes */
function requireFiles(devices: number): void {
  const limit = openFileLimit()
  const needed = devices + otherFiles
  if (limit >= needed) return
  throw new FleetError(
    'config_invalid',
    `${devices} devices in one process take ${needed} open files, and the limit is ${limit}; raise it (ulimit -n ${needed}) or take more --processes`,
  )
}

/** Node has raised the soft limit to the hard one at its start. */
function openFileLimit(): number {
  const { userLimits } = process.report.getReport() as unknown as {
    userLimits?: { open_files?: { soft: number | 'unlimited' } }
  }
  const soft = userLimits?.open_files?.soft
  return typeof soft === 'number' ? soft : Number.POSITIVE_INFINITY
}
