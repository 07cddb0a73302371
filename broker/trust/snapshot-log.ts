import { crc32 } from 'node:zlib'
import { FleetError } from '../../runtime/errors.ts'
import type { Area, Operation } from '../store.ts'

const headKey = 'head'
const recordsBegin = 'record!'
const pageLength = 100
/** What was appended may grow beyond what it was appended to by this much before all is written anew. */
const spareBytes = 8 * 1_048_576

/**
 * Records on disk, one behind the other: whoever reads them all in their order knows what their writer knew. They are of one
 * generation; another one is written beside it and takes its place in one step.
 */
export class SnapshotLog {
  readonly #area: Area
  #generation = 0
  /** The last number that a generation had, finished or not: what is left of a broken one must not mix with the next. */
  #lastGeneration = 0
  #count = 0
  #bytes = 0
  /** Of these the ones that the generation began with. */
  #baseCount = 0
  #baseBytes = 0

  private constructor(area: Area) {
    this.#area = area
  }

  static async open(area: Area): Promise<SnapshotLog> {
    const log = new SnapshotLog(area)
    const [head] = await area.getMany([headKey])
    const [generation = 0, baseCount = 0] = head?.toString().split(' ').map(Number) ?? []
    log.#generation = log.#lastGeneration = generation
    log.#baseCount = baseCount
    return log
  }

  /**
   * Once, before anything is written.
   *
   * @param take is given each record, in order
   * @throws FleetError `data_damaged` for a record that is not as it was written; those before it were taken
   */
  async read(take: (record: Buffer) => void): Promise<void> {
    const isOurs = ([key]: [string, Buffer]): boolean => key.startsWith(generationKey(this.#generation))
    for (let after = recordsBegin; ; ) {
      const page = await this.#area.page(recordsBegin, after, pageLength)
      const last = page.at(-1)
      if (last === undefined) return
      after = last[0]
      for (const [key, value] of page.filter(isOurs)) {
        take(this.#unsealed(key, value))
        this.#bytes += value.length
        if (this.#count++ < this.#baseCount) this.#baseBytes += value.length
      }
      await this.#delete(page.filter((entry) => !isOurs(entry)).map(([key]) => key))
    }
  }

  /** Whether there is so much to be read by now that writing it anew is worth it. */
  get isLong(): boolean {
    return this.#bytes > 2 * this.#baseBytes + spareBytes
  }

  /** On disk when this resolves; one that failed may be tried again, with more in it. */
  async append(record: Buffer): Promise<void> {
    const value = sealed(record)
    const key = recordKey(this.#generation, this.#count)
    // With its generation: a change of it may have reached the disk although it is said to have failed.
    await this.#area.write([put(key, value), headOf(this.#generation, this.#baseCount)], { sync: true })
    this.#count++
    this.#bytes += value.length
  }

  /** These records in place of all others, whole or not at all. One is taken at a time, when the one before is written. */
  async replace(records: Iterable<Buffer>): Promise<void> {
    const generation = ++this.#lastGeneration
    let count = 0
    let bytes = 0
    for (const record of records) {
      const value = sealed(record)
      await this.#area.write([put(recordKey(generation, count++), value)], { sync: false })
      bytes += value.length
    }
    await this.#area.write([headOf(generation, count)], { sync: true })
    const former = Array.from({ length: this.#count }, (_, n) => recordKey(this.#generation, n))
    this.#generation = generation
    this.#count = this.#baseCount = count
    this.#bytes = this.#baseBytes = bytes
    await this.#delete(former)
  }

  async #delete(keys: string[]): Promise<void> {
    for (let at = 0; at < keys.length; at += pageLength) {
      const operations = keys.slice(at, at + pageLength).map((key): Operation => ({ type: 'del', key }))
      await this.#area.write(operations, { sync: false })
    }
  }

  #unsealed(key: string, value: Buffer): Buffer {
    const record = value.subarray(4)
    const isNext = key === recordKey(this.#generation, this.#count)
    if (isNext && value.length > 4 && value.readUInt32BE(0) === crc32(record)) return record
    throw new FleetError('data_damaged', `the snapshot's record ${this.#count} is not as it was written`)
  }
}

const put = (key: string, value: Buffer): Operation => ({ type: 'put', key, value })
const headOf = (generation: number, baseCount: number): Operation =>
  put(headKey, Buffer.from(`${generation} ${baseCount}`))

function sealed(record: Buffer): Buffer {
  const sum = Buffer.alloc(4)
  sum.writeUInt32BE(crc32(record))
  return Buffer.concat([sum, record])
}

const generationKey = (generation: number): string => `${recordsBegin}${digits(generation)}!`
const recordKey = (generation: number, number: number): string => generationKey(generation) + digits(number)
// In the order of the keys.
const digits = (number: number): string => number.toString(16).padStart(10, '0')
