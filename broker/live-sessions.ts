import { reportBounds } from '../contract/broker-reports.ts'
import type { KickOrder, LiveSession, SessionQuery } from '../contract/live-sessions.ts'
import { lastPacketOf } from './cut-reports.ts'
import type { Connection, Sessions } from './sessions.ts'

/** Looked at, beyond those that were asked for, before they are put in order. */
const atOnce = 1_000

type Live = Connection & { clientId: string; deviceId: string }

export function listSessions(
  sessions: Pick<Sessions, 'ofDevice' | typeof Symbol.iterator>,
  { deviceIds, listener, from = '', limit }: SessionQuery,
  now: Date,
): LiveSession[] {
  const among = deviceIds && [...new Set(deviceIds)].flatMap((id) => sessions.ofDevice(id))
  const isMeant = (connection: Connection): connection is Live =>
    isLive(connection) && connection.clientId >= from && (listener ?? connection.rules.name) === connection.rules.name
  // There may be a hundred thousand, and a page of them is asked for: they are not all sorted for it.
  let found: Live[] = []
  let last: string | undefined
  for (const connection of among ?? sessions) {
    if (!isMeant(connection) || (last !== undefined && connection.clientId > last)) continue
    found.push(connection)
    if (found.length < limit + atOnce) continue
    found = found.sort(byClientId).slice(0, limit)
    last = found.at(-1)!.clientId
  }
  return found
    .sort(byClientId)
    .slice(0, limit)
    .map((connection) => show(connection, now))
}

/**
 * Ends a session as an operator wants it. Its will is due, as after every end that the client did not ask for ([MQTT-3.1.2-8]):
 * who watches the device has to hear that it is gone.
 *
 * @returns what was ended; its client id is free then
 */
export async function kickSession(
  sessions: Pick<Sessions, 'findLive'>,
  { clientId }: KickOrder,
  now: Date,
): Promise<LiveSession[]> {
  const connection = sessions.findLive(clientId)
  if (connection === undefined || !isLive(connection)) return []
  const shown = show(connection, now)
  connection.close('kicked', 'an operator has ended the session')
  await connection.finished
  return [shown]
}

/** One that is being ended, and waits for its peer, is not any more. */
const isLive = (connection: Connection): connection is Live =>
  connection.state === 'live' && connection.endReason === undefined

/** As operators and enroll are shown them, where they are live and of a device. */
export const showSessions = (connections: readonly Connection[], now: Date): LiveSession[] =>
  connections.filter(isLive).map((connection) => show(connection, now))

const byClientId = (a: Live, b: Live): number => (a.clientId < b.clientId ? -1 : a.clientId > b.clientId ? 1 : 0)

function show(connection: Live, now: Date): LiveSession {
  const { clientId, deviceId, certificate, rules, remoteAddress, connectedAt, isResumed, link } = connection
  const { packetsIn, bytesIn, packetsOut, bytesOut } = link.counters
  const lastPacket = lastPacketOf(connection, now)
  return {
    clientId,
    deviceId,
    listener: rules.name.slice(0, reportBounds.name),
    remoteAddress: remoteAddress.slice(0, reportBounds.name),
    connectedAt: connectedAt.toISOString(),
    isResumed,
    packetsIn,
    bytesIn,
    packetsOut,
    bytesOut,
    ...(certificate === undefined ? {} : { serial: certificate.serial }),
    ...(lastPacket === undefined ? {} : { lastPacket }),
  }
}
