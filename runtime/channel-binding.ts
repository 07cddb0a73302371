import type { TLSSocket } from 'node:tls'

/**
 * The octets that name this TLS connection and no other: tls-exporter (RFC 9266) on TLS 1.3, tls-unique (RFC 5929 3) on 1.2.
 *
 * @param side our end of it
 * @returns undefined where no value names it safely: tls-unique without Extended Master Secret (RFC 7627 1)
 */
export function channelBindingOf(socket: TLSSocket, side: 'client' | 'server'): Buffer | undefined {
  if (socket.getProtocol() === 'TLSv1.3') {
    return socket.exportKeyingMaterial(32, 'EXPORTER-Channel-Binding', Buffer.alloc(0))
  }
  const session = socket.getSession()
  if (session === undefined) return undefined
  const isSafe = hasExtendedMasterSecret(derOf(session))
  session.fill(0) // the master secret is in it
  if (!isSafe) return undefined
  // RFC 5929 3.1: the first Finished of the handshake; the client sends it in a full one, the server in a resumed one.
  const first = socket.isSessionReused() ? 'server' : 'client'
  return first === side ? socket.getFinished() : socket.getPeerFinished()
}

/** A client's session may stand behind the name of the server that it is for (Node's lib/internal/tls/wrap.js). */
function derOf(session: Buffer): Buffer {
  const nameAt = session.subarray(0, ofServer.length).equals(ofServer) ? ofServer.length + 2 : 0
  return nameAt === 0 ? session : session.subarray(nameAt + session.readUInt16BE(nameAt - 2))
}
const ofServer = Buffer.from('\0nodejs:tls:session:1\0')

/**
 * Node does not tell, but the session does: OpenSSL writes it as a SEQUENCE (ssl/ssl_asn1.c) whose `flags [13] EXPLICIT
 * INTEGER` has the bit SSL_SESS_FLAG_EXTMS, 1. Anything else than that form is taken for a session without.
 */
function hasExtendedMasterSecret(session: Buffer): boolean {
  const fields = elementAt(session, 0)
  for (let at = fields.start; at < fields.end; ) {
    const { tag, start, end } = elementAt(session, at)
    if (tag === 0xad) return session[start] === 0x02 && end <= session.length && (session[end - 1]! & 1) === 1
    at = end
  }
  return false
}

function elementAt(der: Buffer, at: number): { tag: number | undefined; start: number; end: number } {
  const first = der[at + 1] ?? 0
  const octets = first > 0x80 ? Math.min(first & 0x7f, 4) : 0
  const start = at + 2 + octets
  const length = octets > 0 && start <= der.length ? der.readUIntBE(at + 2, octets) : first
  return { tag: der[at], start, end: start + length }
}
