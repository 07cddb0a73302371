/** A broker's side of the trust feed, bare: what enroll really sends, without a broker. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { connect, type TLSSocket } from 'node:tls'
import {
  type Cursor,
  encodeLine,
  type FeedEvent,
  type FromBroker,
  type FromEnroll,
  LineReader,
} from '../../contract/feed.ts'
import { splitAddress } from '../../runtime/config.ts'
import type { EnrollHarness } from './fleet.ts'

export class Follower implements AsyncDisposable {
  readonly socket: TLSSocket
  readonly messages: FromEnroll[] = []
  acknowledge = false
  readonly #waiting = new Set<() => void>()

  constructor(socket: TLSSocket) {
    this.socket = socket
    const lines = new LineReader()
    socket.setEncoding('utf8')
    socket.on('data', (chunk: string) => {
      for (const line of lines.push(chunk)) {
        const message = JSON.parse(line) as FromEnroll
        this.messages.push(message)
        if (message.kind === 'event' && this.acknowledge) this.send({ kind: 'applied', seq: message.seq })
      }
      for (const wake of this.#waiting) wake()
    })
    socket.on('error', () => {})
    socket.on('close', () => {
      for (const wake of this.#waiting) wake()
    })
  }

  get events(): FeedEvent[] {
    return this.messages.flatMap((message) => (message.kind === 'event' ? [message] : []))
  }

  send(message: FromBroker): void {
    this.socket.write(encodeLine(message))
  }

  /** Waits for a message or the end of the connection. */
  async see(wanted: (message: FromEnroll) => boolean): Promise<FromEnroll | undefined> {
    for (;;) {
      const found = this.messages.find(wanted)
      if (found || this.socket.destroyed) return found
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          this.#waiting.delete(wake)
          resolve()
        }
        this.#waiting.add(wake)
      })
    }
  }

  async until(seq: number): Promise<FeedEvent[]> {
    await this.see((message) => message.kind === 'event' && message.seq >= seq)
    return this.events
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.socket.destroyed) return
    await new Promise((resolve) => this.socket.once('close', resolve).destroy())
  }
}

/** Connects as a broker, or with another credential, and says hello when a cursor is given. */
export async function followFeed(
  fleet: Pick<EnrollHarness, 'dataDir' | 'endpoints' | 'root'>,
  cursor: Cursor | undefined,
  credential: { key?: string; cert?: string } = brokerCredential(fleet),
  more: Partial<Extract<FromBroker, { kind: 'hello' }>> = {},
): Promise<Follower> {
  const { host, port } = splitAddress(fleet.endpoints.feed)
  const socket = connect({
    host,
    port,
    ca: fleet.root,
    servername: 'enroll.fleetgate.internal',
    minVersion: 'TLSv1.3',
    ...credential,
  })
  const follower = new Follower(socket)
  await new Promise((resolve, reject) => socket.once('secureConnect', resolve).once('error', reject))
  if (cursor) follower.send({ kind: 'hello', protocol: 1, broker: 'broker-1', cursor, ...more })
  return follower
}

export function brokerCredential(fleet: Pick<EnrollHarness, 'dataDir'>): { key: string; cert: string } {
  const folder = join(fleet.dataDir, 'services', 'broker')
  return { key: readFileSync(join(folder, 'tls.key'), 'utf8'), cert: readFileSync(join(folder, 'tls.crt'), 'utf8') }
}
