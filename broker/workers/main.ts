/** A process that does TLS for a broker. It decides nothing: who a peer is, and what it sends, goes to the broker, which says when to close. */
import { Socket } from 'node:net'
import { isFleetError } from '../../runtime/errors.ts'
import { Listener } from '../listener.ts'
import type { PeerFacts, PeerSocket } from '../peer.ts'
import { decodeJson, encodeCount, type Frame, FrameReader, FrameWriter } from './frames.ts'
import { type ListenOrder, type Opened, pipeDescriptor, readContext, type TlsContextOrder } from './orders.ts'

/** More than this waits for the broker: nothing more is read from peers. */
const maxPendingBytes = 4 * 1024 * 1024
/** The broker counts what is under way in larger units than writes. */
const takenBytes = 32_768

type Peer = { socket: PeerSocket; takenBytes: number; isPaused: boolean }

const pipe = new Socket({ fd: pipeDescriptor })
const frames = new FrameWriter(pipe, readOn)
const reader = new FrameReader()
const listeners = new Map<number, Listener>()
const peers = new Map<number, Peer>()
const held = new Set<Peer>()
let lastId = 0

pipe.on('data', (chunk) => {
  for (const frame of reader.read(chunk)) obey(frame)
})
// Without its broker it is nothing; a Ctrl-C reaches every process of the group, and the broker alone says how to end.
pipe.on('close', () => process.exit())
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {})

function obey({ kind, id, body }: Frame): void {
  switch (kind) {
    case 'listen':
      void listen(id, decodeJson<ListenOrder>(body))
      break
    case 'context':
      listeners.get(id)?.use(readContext(decodeJson<TlsContextOrder>(body)))
      break
    case 'stop':
      void listeners.get(id)?.stop()
      break
    case 'ping':
      frames.send('pong', id)
      break
    default: {
      // What it is about may have been closed meanwhile.
      const peer = peers.get(id)
      if (peer !== undefined) obeyFor(peer, id, { kind, id, body })
    }
  }
}

function obeyFor(peer: Peer, id: number, { kind, body }: Frame): void {
  const { socket } = peer
  switch (kind) {
    case 'data':
      if (socket.writable) socket.write(body, () => taken(peer, id, body.length))
      else taken(peer, id, body.length)
      break
    case 'end':
      socket.end()
      break
    case 'destroy':
      socket.destroy()
      break
    case 'pause':
      peer.isPaused = true
      socket.pause()
      break
    case 'resume':
      peer.isPaused = false
      if (!held.has(peer)) socket.resume()
  }
}

async function listen(id: number, order: ListenOrder): Promise<void> {
  try {
    const listener = await Listener.open({
      ...order,
      context: readContext(order.context),
      isShared: true,
      onPeer: (socket, facts) => welcome(id, socket, facts),
      onRefused: (reason, message, remoteAddress) => frames.tell('refused', id, { reason, message, remoteAddress }),
    })
    listeners.set(id, listener)
    frames.tell('listening', id, listener.address)
  } catch (error) {
    const { message } = error as Error
    frames.tell('failed', id, { code: isFleetError(error) ? error.code : 'internal', message })
  }
}

function welcome(listener: number, socket: PeerSocket, facts: PeerFacts): void {
  do lastId = (lastId + 1) >>> 0
  while (peers.has(lastId))
  const id = lastId
  const peer: Peer = { socket, takenBytes: 0, isPaused: false }
  peers.set(id, peer)
  const opened: Opened = {
    listener,
    remoteAddress: facts.remoteAddress,
    certificate: facts.certificate?.raw.toString('base64'),
    authorized: facts.authorized,
    chainError: facts.chainError,
    tls: { protocol: socket.getProtocol(), cipher: socket.getCipher(), isResumed: socket.isSessionReused() },
  }
  frames.tell('opened', id, opened)
  socket.on('data', (chunk: Buffer) => {
    frames.send('data', id, chunk)
    if (frames.pendingBytes <= maxPendingBytes) return
    held.add(peer)
    socket.pause()
  })
  socket.on('end', () => frames.send('ended', id))
  socket.on('close', () => {
    peers.delete(id)
    held.delete(peer)
    frames.send('closed', id)
  })
}

function taken(peer: Peer, id: number, bytes: number): void {
  peer.takenBytes += bytes
  if (peer.takenBytes < takenBytes) return
  frames.send('taken', id, encodeCount(peer.takenBytes))
  peer.takenBytes = 0
}

/** The broker has taken something: those who were held may speak again, once there is room for them. */
function readOn(): void {
  if (held.size === 0 || frames.pendingBytes > maxPendingBytes / 2) return
  for (const peer of held) if (!peer.isPaused) peer.socket.resume()
  held.clear()
}
