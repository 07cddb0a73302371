import type { X509Certificate } from 'node:crypto'
import type { Duplex } from 'node:stream'
import type { TLSSocket } from 'node:tls'

/** A connection from the end of its handshake on, whichever process does its TLS. */
export type PeerSocket = Duplex & Pick<TLSSocket, 'isSessionReused' | 'getProtocol' | 'getCipher'>

/** What TLS found out about a peer; nothing in it is a decision. */
export type PeerFacts = {
  remoteAddress: string
  certificate: X509Certificate | undefined
  /** Node's word on the chain. Replayed on a resumed session, so it says nothing about today. */
  authorized: boolean
  /** OpenSSL's name of what is wrong with the chain. */
  chainError: string | undefined
}

export type HandshakeRefusal = 'handshake_failed' | 'too_many_connections'
