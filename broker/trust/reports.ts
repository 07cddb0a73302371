import { type BrokerReport, maxReportsUnderWay } from '../../contract/broker-reports.ts'
import type { Log } from '../../runtime/log.ts'
import { LogLimit } from '../../runtime/log-limit.ts'
import type { Area } from '../store.ts'

type Send = (id: string, report: BrokerReport) => void
/** `sentAt` is undefined while it has not gone out on this connection. */
type Waiting = { readonly key: string; readonly report: BrokerReport; sentAt: number | undefined }
type ReportsOptions = {
  area: Area
  newId: () => string
  clock: () => Date
  log: Log
  /** More that wait are not kept: enroll is away, or cannot write. Of verdicts, four fifths of it. */
  maxWaiting?: number
  /** One that is not noted by then was not written there, and goes out again. */
  repeatMs?: number
}

const prefix = 'w'
const pageSize = 500

/** What enroll is to be told, until it says that it has noted it: over losses of the connection, and of this process. */
export class Reports implements AsyncDisposable {
  readonly #options: ReportsOptions
  readonly #maxWaiting: number
  readonly #repeatMs: number
  /** By id, the oldest first. */
  readonly #waiting = new Map<string, Waiting>()
  readonly #dropped = new LogLimit({ burst: 1, everyMs: 60_000 })
  readonly #timer: NodeJS.Timeout
  #send: Send | undefined
  #underWay = 0
  #next = 1
  #writing: Promise<void> = Promise.resolve()

  private constructor(options: ReportsOptions) {
    this.#options = options
    this.#maxWaiting = options.maxWaiting ?? 10_000
    this.#repeatMs = options.repeatMs ?? 30_000
    this.#timer = setInterval(() => this.#repeat(), this.#repeatMs)
    this.#timer.unref()
  }

  static async open(options: ReportsOptions): Promise<Reports> {
    const reports = new Reports(options)
    for (let after = ''; ; ) {
      const page = await options.area.page(prefix, after, pageSize)
      for (const [key, value] of page) {
        const { id, report } = JSON.parse(value.toString()) as { id: string; report: BrokerReport }
        reports.#waiting.set(id, { key, report, sentAt: undefined })
        reports.#next = Number(key.slice(prefix.length)) + 1
      }
      if (page.length < pageSize) return reports
      after = page.at(-1)![0]
    }
  }

  get size(): number {
    return this.#waiting.size
  }

  /**
   * It is on its way to the disk and, where enroll is there, to enroll when this returns.
   *
   * @returns false where too much waits, and it was dropped
   */
  raise(report: BrokerReport): boolean {
    const { newId, clock, log } = this.#options
    // A fleet that is refused for nobody knowing who is revoked must not take the room of what a theft has ended.
    const room = report.type === 'verdict' ? this.#maxWaiting * 0.8 : this.#maxWaiting
    if (this.#waiting.size >= room) {
      const told = this.#dropped.take(report.type, clock().getTime())
      if (told) log.error({ event: 'report.dropped', type: report.type, ...told }, 'too much waits to be reported')
      return false
    }
    const id = newId()
    const key = `${prefix}${String(this.#next++).padStart(16, '0')}`
    this.#waiting.set(id, { key, report, sentAt: undefined })
    this.#flush()
    this.#write({ type: 'put', key, value: Buffer.from(JSON.stringify({ id, report })) })
    return true
  }

  /** Enroll is there and takes reports: what waits goes out, in order, from here on. */
  start(send: Send): void {
    this.stop()
    this.#send = send
    this.#flush()
  }

  stop(): void {
    this.#send = undefined
    this.#underWay = 0
    for (const waiting of this.#waiting.values()) waiting.sentAt = undefined
  }

  noted(id: string): void {
    const waiting = this.#waiting.get(id)
    if (waiting === undefined) return
    this.#waiting.delete(id)
    if (waiting.sentAt !== undefined) this.#underWay--
    this.#write({ type: 'del', key: waiting.key })
    this.#flush()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer)
    this.stop()
    await this.#writing
  }

  #flush(): void {
    if (this.#send === undefined || this.#underWay >= maxReportsUnderWay) return
    for (const [id, waiting] of this.#waiting) {
      if (waiting.sentAt !== undefined) continue
      waiting.sentAt = performance.now()
      this.#underWay++
      this.#send(id, waiting.report)
      if (this.#underWay >= maxReportsUnderWay) return
    }
  }

  #repeat(): void {
    const before = performance.now() - this.#repeatMs
    for (const waiting of this.#waiting.values()) {
      if (waiting.sentAt === undefined || waiting.sentAt > before) continue
      waiting.sentAt = undefined
      this.#underWay--
    }
    this.#flush()
  }

  #write(operation: Parameters<Area['write']>[0][number]): void {
    const { area, log } = this.#options
    // One at a time: of two under way at once the removal may come to the disk before what it removes.
    this.#writing = this.#writing
      .then(() => area.write([operation], { sync: false }))
      .catch((err) => log.error({ event: 'broker.failed', err }, 'a report was not kept'))
  }
}
