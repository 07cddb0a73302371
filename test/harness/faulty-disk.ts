/** A real store on a disk that can be made to fail, for brokers that are started from here on in this process. */
import { mock } from 'node:test'
import { type Area, BrokerStore } from '../../broker/store.ts'

const errno = (code: string, text: string): Error => Object.assign(new Error(`${code}: ${text}`), { code })

export class FaultyDisk implements Disposable {
  readonly #mock: { mock: { restore(): void } }
  /** Writes that still succeed before the disk is full. */
  #writesLeft = Number.POSITIVE_INFINITY
  #isReadable = true
  /** As LevelDB does after a failed write, until it is opened again. */
  #refuses = false
  #hanging: PromiseWithResolvers<void> | undefined
  /** Writes that were tried while the disk hung. */
  held = 0

  constructor() {
    const open = BrokerStore.open.bind(BrokerStore)
    this.#mock = mock.method(BrokerStore, 'open', async (folder: string) => this.#wrap(await open(folder)))
  }

  /** @param after writes that still succeed */
  fill(after = 0): void {
    this.#writesLeft = after
  }

  breakReads(): void {
    this.#isReadable = false
  }

  hang(): void {
    this.#hanging ??= Promise.withResolvers()
  }

  heal(): void {
    this.#writesLeft = Number.POSITIVE_INFINITY
    this.#isReadable = true
    this.#hanging?.resolve()
    this.#hanging = undefined
  }

  [Symbol.dispose](): void {
    this.heal()
    this.#mock.mock.restore()
  }

  #wrap(store: BrokerStore): BrokerStore {
    const faulty = (area: Area): Area => ({
      getMany: (keys) => this.#read(() => area.getMany(keys)),
      page: (prefix, after, limit) => this.#read(() => area.page(prefix, after, limit)),
      write: (operations, options) => this.#write(() => area.write(operations, options)),
      reopen: async () => {
        if (this.#writesLeft <= 0) throw errno('ENOSPC', 'no space left on device')
        await area.reopen()
        this.#refuses = false
      },
    })
    return Object.defineProperties(store, {
      sessions: { value: faulty(store.sessions) },
      snapshot: { value: faulty(store.snapshot) },
    })
  }

  async #read<T>(read: () => Promise<T>): Promise<T> {
    if (!this.#isReadable) throw errno('EIO', 'i/o error, read')
    return read()
  }

  async #write(write: () => Promise<void>): Promise<void> {
    if (this.#hanging !== undefined) {
      this.held++
      await this.#hanging.promise
    }
    if (this.#writesLeft-- <= 0) this.#refuses = true
    if (this.#refuses) throw errno('ENOSPC', 'no space left on device')
    await write()
  }
}
