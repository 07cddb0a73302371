/** One TLS connection to the EST service that says whatever octets it is given. */
import { once } from 'node:events'
import { isIP } from 'node:net'
import { connect, type TLSSocket } from 'node:tls'
import type { DeviceKeys, EnrollHarness } from './fleet.ts'

const sessions = new WeakMap<EnrollHarness, Map<string, Buffer>>()

export class RawEst implements AsyncDisposable {
  readonly #socket: TLSSocket
  #text = ''
  #heard: () => void = () => undefined

  private constructor(socket: TLSSocket) {
    this.#socket = socket
    socket.setEncoding('latin1').on('data', (chunk: string) => {
      this.#text += chunk
      this.#heard()
    })
    socket.on('close', () => this.#heard()).on('error', () => undefined)
  }

  /** Sessions are resumed, so that many connections cost little. */
  static async open(fleet: EnrollHarness, device?: DeviceKeys): Promise<RawEst> {
    const { hostname, port } = new URL(fleet.endpoints.est)
    const known = sessions.get(fleet) ?? new Map<string, Buffer>()
    sessions.set(fleet, known)
    const who = device?.serial ?? ''
    const session = known.get(who)
    const socket = connect({
      host: hostname,
      port: Number(port),
      servername: isIP(hostname) ? '' : hostname,
      ca: fleet.root,
      ...(device && { key: device.key, cert: device.certificate }),
      ...(session && { session }),
    })
    socket.on('session', (ticket: Buffer) => known.set(who, ticket))
    await once(socket, 'secureConnect')
    return new RawEst(socket)
  }

  /** @returns status and reason of the answer once it is there as a whole, or what came instead within `waitMs` */
  async exchange(octets: Buffer, waitMs: number): Promise<string> {
    this.#socket.write(octets)
    const hasNoBody = octets.subarray(0, 5).toString() === 'HEAD '
    const waited = AbortSignal.timeout(waitMs)
    waited.addEventListener('abort', () => this.#heard())
    while (!this.#socket.closed && !waited.aborted) {
      this.#text = this.#text.replace(/^HTTP\/1\.1 100 Continue\r\n\r\n/, '')
      if (this.#isWhole(hasNoBody)) break
      await new Promise<void>((resolve) => {
        this.#heard = resolve
      })
    }
    return /^HTTP\/1\.1 (\d{3} [A-Za-z ]*)\r\n/.exec(this.#text)?.[1] ?? (this.#socket.closed ? 'closed' : 'waiting')
  }

  /** The answer, and what came behind it. */
  get heard(): string {
    return this.#text
  }

  #isWhole(hasNoBody: boolean): boolean {
    const end = this.#text.indexOf('\r\n\r\n')
    if (end >= 0 && (hasNoBody || this.#text.startsWith('HTTP/1.1 204'))) return true
    const length = /\r\ncontent-length: (\d+)/i.exec(this.#text.slice(0, end))?.[1]
    return end >= 0 && this.#text.length - end - 4 >= Number(length ?? 0)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.destroy()
  }
}
