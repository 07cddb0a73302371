import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export type Path = AsyncDisposable & { port: number; leave(): void }

/**
 * A way to a port of 127.0.0.1 that comes from `localAddress`. What is left stays open, and nothing is heard from it: as when a
 * device has moved to another network.
 */
export async function openPath(port: number, localAddress: string): Promise<Path> {
  const pairs: [near: Socket, far: Socket][] = []
  const server = createServer((near) => {
    const far = connect({ port, host: '127.0.0.1', localAddress, allowHalfOpen: true })
    for (const socket of [near, far]) socket.on('error', () => {})
    near.pipe(far, { end: false })
    far.pipe(near, { end: false })
    pairs.push([near, far])
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    leave() {
      for (const [near, far] of pairs) near.unpipe(far)
    },
    async [Symbol.asyncDispose]() {
      server.close()
      for (const pair of pairs) for (const socket of pair) socket.destroy()
    },
  }
}
