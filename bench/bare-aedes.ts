/** The core that this broker uses, on its own behind Node's TLS: certificates are asked for, and nothing else is checked. */
import type { AddressInfo } from 'node:net'
import { createServer } from 'node:tls'
import { Aedes } from 'aedes'

process.once('message', async ({ key, chain, anchors }: { key: string; chain: string; anchors: string[] }) => {
  const broker = await Aedes.createBroker()
  const options = { key, cert: chain, ca: anchors, requestCert: true, rejectUnauthorized: true }
  const server = createServer(options, (socket) => {
    socket.setNoDelay(true)
    broker.handle(socket, undefined as never)
  })
  server.listen(0, '127.0.0.1', () => process.send!({ port: (server.address() as AddressInfo).port }))
})
process.on('disconnect', () => process.exit())
