/** A network between two processes that a test can cut: TCP on loopback, passed on octet by octet. */
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { splitAddress } from '../../runtime/config.ts'

export class Cable implements AsyncDisposable {
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  #isCut = false
  address = ''

  private constructor(server: Server) {
    this.#server = server
  }

  /** @param target asked at each connection */
  static async lay(target: () => string): Promise<Cable> {
    // As where packets are lost: nothing is refused, nothing ends, nothing comes.
    const server = createServer({ pauseOnConnect: true, allowHalfOpen: true })
    const cable = new Cable(server)
    server.on('connection', (near) => {
      cable.#hold(near)
      if (cable.#isCut) return
      const far = connect({ ...splitAddress(target()), allowHalfOpen: true })
      cable.#hold(far)
      for (const [from, to] of [
        [near, far],
        [far, near],
      ] as const) {
        from.on('data', (chunk) => to.write(chunk))
        from.on('end', () => to.end())
        from.on('close', () => {
          if (!cable.#isCut) to.destroy()
        })
      }
      near.resume()
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    cable.address = `127.0.0.1:${(server.address() as AddressInfo).port}`
    return cable
  }

  /** Octets wait where they are; neither end is told. */
  cut(): void {
    this.#isCut = true
    for (const socket of this.#sockets) socket.pause()
  }

  /** New connections pass; what was under way at the cut is lost, as a peer that has given it up lets it be. */
  mend(): void {
    this.#isCut = false
    for (const socket of this.#sockets) socket.destroy()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()))
    this.mend()
    await closed
  }

  #hold(socket: Socket): void {
    this.#sockets.add(socket)
    socket.on('error', () => socket.destroy())
    socket.on('close', () => this.#sockets.delete(socket))
  }
}
