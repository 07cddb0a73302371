/** The larger things that a broker and its workers say, in JSON. */
import type { ListenerOptions, TlsContext } from '../listener.ts'
import type { PeerFacts } from '../peer.ts'
import type { TlsFacts } from './worker-stream.ts'

/** The worker's end of the socket pair. */
export const pipeDescriptor = 3

export type TlsContextOrder = Omit<TlsContext, 'ticketKeys'> & { ticketKeys: string }
export type ListenOrder = Pick<
  ListenerOptions,
  'listen' | 'names' | 'proxies' | 'handshakeTimeoutMs' | 'maxConnections'
> & { context: TlsContextOrder }
export type Opened = Omit<PeerFacts, 'certificate'> & {
  listener: number
  /** DER in base64 */
  certificate: string | undefined
  tls: TlsFacts
}

export const readContext = ({ ticketKeys, ...rest }: TlsContextOrder): TlsContext => ({
  ...rest,
  ticketKeys: Buffer.from(ticketKeys, 'base64'),
})
