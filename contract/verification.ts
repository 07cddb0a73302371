/** What verification of a peer can find, and what a listener may do about it. */

/** In the order in which they are told where several hold. */
export const verificationStates = [
  'valid',
  'none',
  'self_signed',
  'bad_signature',
  'unknown_ca',
  'revoked',
  'held',
  'stale_status',
  'expired',
  'not_yet_valid',
  'wrong_eku',
  'not_registered',
  'pin_mismatch',
  'client_id_mismatch',
] as const
export type VerificationState = (typeof verificationStates)[number]
export type VerificationFault = Exclude<VerificationState, 'valid'>
export const verificationFaults = verificationStates.filter((state): state is VerificationFault => state !== 'valid')

/** What each says of a peer. */
export const meanings: Record<VerificationFault, string> = {
  none: 'No certificate was presented',
  self_signed: 'A certificate that the peer made itself',
  bad_signature: 'A certificate in the name of a trusted CA, without its signature',
  unknown_ca: 'A certificate that no CA trusted here issued, or whose chain does not hold',
  revoked: 'The certificate or its device is revoked',
  held: 'The certificate or its device is on hold',
  stale_status: 'It cannot be said who is revoked: the feed was not heard, or a revocation list has run out',
  expired: 'The certificate has expired',
  not_yet_valid: 'The certificate is not valid yet',
  wrong_eku: 'The certificate is not for client authentication',
  not_registered: 'The certificate, or the device that it names, is not in the registry',
  pin_mismatch: 'The registry knows another certificate of the device, or none',
  client_id_mismatch: 'The MQTT client id is not the device id',
}

/** `grace` tolerates a fault for so long from when it began. */
export type Handling = { action: 'reject' | 'quarantine' | 'log-only' } | { action: 'grace'; durationMs: number }
export type HandlingTable = Readonly<Record<VerificationFault, Handling>>
export type ListenerMode = 'enforce' | 'permissive'

/** Somebody decided that this one stays out, or it pretends to be somebody: no mode makes up for that by itself. */
const hard: ReadonlySet<VerificationFault> = new Set(['revoked', 'held', 'bad_signature', 'client_id_mismatch'])
/** Nothing says which device it is. */
const nameless: ReadonlySet<VerificationFault> = new Set(['none', 'self_signed', 'unknown_ca', 'not_registered'])
/** Begins at a time that is known. */
const timed: ReadonlySet<VerificationFault> = new Set(['expired', 'stale_status'])

const units = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const
export const handlingForm = 'reject, quarantine, log-only or grace(DURATION) is wanted, as in grace(12h): s, m, h or d'

/** @returns undefined for a text of another form */
export function parseHandling(text: string): Handling | undefined {
  if (text === 'reject' || text === 'quarantine' || text === 'log-only') return { action: text }
  const found = /^grace\(([1-9]\d{0,4})([smhd])\)$/.exec(text)
  return found ? { action: 'grace', durationMs: Number(found[1]) * units[found[2] as keyof typeof units] } : undefined
}

/** @returns why a table may not say that; undefined when it may */
export function handlingFault(state: VerificationFault, { action }: Handling): string | undefined {
  if (action === 'reject' || action === 'quarantine') return undefined
  if (hard.has(state)) return `${state} can be rejected or quarantined, never ${action}`
  if (nameless.has(state)) return `${state} does not say which device it is: reject or quarantine it`
  if (action === 'grace' && !timed.has(state))
    return `${state} does not begin at a time that grace could be counted from`
  return undefined
}

/** What happens with each fault at a listener. Fails closed: what `texts` does not name is the mode's to decide. */
export function handlingTable(
  mode: ListenerMode,
  texts: { readonly [F in VerificationFault]?: string | undefined },
): HandlingTable {
  const rows = verificationFaults.map((state) => [
    state,
    parseHandling(texts[state] ?? '') ?? defaultHandling(mode, state),
  ])
  return Object.fromEntries(rows) as HandlingTable
}

export const defaultHandling = (mode: ListenerMode, state: VerificationFault): Handling => ({
  action: mode === 'permissive' && !hard.has(state) ? 'quarantine' : 'reject',
})
