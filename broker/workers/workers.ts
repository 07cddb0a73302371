import { randomBytes } from 'node:crypto'
import { createServer } from 'node:net'
import { joinAddress, splitAddress } from '../../runtime/config.ts'
import { listen } from '../../runtime/https.ts'
import type { Log } from '../../runtime/log.ts'
import type { Door, ListenerOptions, TlsContext } from '../listener.ts'
import type { TlsContextOrder } from './orders.ts'
import { type SharedDoor, Worker } from './worker.ts'

/** What a ticket is sealed with: a name and two keys. */
const ticketKeyBytes = 48
const pingMs = 5_000

/**
 * Processes that do TLS for the listeners of one broker: handshakes and records are theirs, every decision stays where the
 * sessions are. One that ends takes its connections along, and is started again.
 */
export class Workers implements AsyncDisposable {
  readonly #log: Log
  readonly #doors: SharedDoor[] = []
  readonly #workers: Worker[]
  readonly #pings: NodeJS.Timeout

  constructor(count: number, log: Log) {
    this.#log = log
    this.#workers = Array.from({ length: count }, (_, at) => new Worker(at, this.#doors, log))
    this.#pings = setInterval(() => {
      for (const worker of this.#workers) worker.ping()
    }, pingMs)
    this.#pings.unref()
  }

  /** @throws FleetError `port_in_use` */
  async open(options: ListenerOptions): Promise<Door> {
    const door: SharedDoor = { options, context: orderOf(options.context), streams: new Set(), emptied: undefined }
    const id = this.#doors.push(door) - 1
    await requireFree(options.listen)
    let address: Door['address'] | undefined
    for (const worker of this.#workers) {
      address = await worker.listen(id)
      // The first one may have chosen a port: the others, and those that are started again, have to have the same.
      const { host } = splitAddress(options.listen)
      door.options = { ...options, listen: joinAddress(host, address.port) }
    }
    this.#log.info({ event: 'workers.listening', workers: this.#workers.length, ...address }, 'TLS is done by workers')
    return {
      address: address!,
      use: (context) => {
        door.context = orderOf(context)
        for (const worker of this.#workers) worker.tell('context', id, door.context)
      },
      stop: () => {
        door.emptied ??= Promise.withResolvers()
        for (const worker of this.#workers) worker.tell('stop', id, {})
        if (door.streams.size === 0) door.emptied.resolve()
        return door.emptied.promise
      },
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#pings)
    await Promise.all(this.#workers.map((worker) => worker.stop()))
  }
}

/** All workers of a listener open each other's tickets, and none from before a change of what it trusts. */
const orderOf = (context: TlsContext): TlsContextOrder => ({
  ...context,
  ticketKeys: randomBytes(ticketKeyBytes).toString('base64'),
})

/**
 * Of an address that several may share the system does not say that it is in use, by another gateway for example.
 *
 * @throws FleetError `port_in_use`
 */
async function requireFree(address: string): Promise<void> {
  const server = createServer()
  await listen(server, address)
  await new Promise((resolve) => server.close(resolve))
}
