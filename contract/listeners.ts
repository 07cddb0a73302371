/** The part of the configuration that says where a broker listens, whom it trusts there and what it does about faults. */
import { z } from 'zod'
import { isGroupName, nameRule } from './ids.ts'
import { handlingFault, handlingForm, meanings, parseHandling, type VerificationFault } from './verification.ts'

/** `host:port`; an IPv6 host stands in brackets; port 0 takes a free one. */
export const address = z
  .string()
  .regex(/^(\[[0-9A-Fa-f:.]+\]|[^:[\]\s]+):\d{1,5}$/, {
    error: 'host:port is wanted, for example 0.0.0.0:8883',
    abort: true,
  })
  .refine((text) => Number(text.slice(text.lastIndexOf(':') + 1)) <= 65_535, 'a port is a number from 0 to 65535')

/** The label of the gateway's own CA. */
export const ownAuthority = 'fleetgate'
const label = z.string().regex(/^[a-z][a-z0-9-]{0,31}$/, 'a lower-case letter, then letters, digits and -, at most 32')

const authority = z.strictObject({
  label: label.describe('Unique; listeners and policies name the CA by it. fleetgate is the CA of this gateway'),
  file: z.string().min(1).describe('PEM: the root, and every CA below it that issues to devices'),
  deviceId: z
    .enum(['subject.CN', 'subject.serialNumber', 'san.dns', 'san.uri'])
    .describe('Which value of a certificate is the id of a registered device'),
  deviceIdPrefix: z.string().max(200).default('').describe('What stands before the id in that value'),
  groups: z
    .array(z.string().refine(isGroupName, `a group is ${nameRule}`))
    .min(1)
    .optional()
    .describe('The CA speaks for devices of these groups alone; without it, for every device'),
  pins: z
    .literal('required')
    .optional()
    .describe('The registry has to know the very certificate as that of the device'),
  crl: z.string().min(1).optional().describe('PEM or DER: revocation lists of these CAs, read again when it changes'),
})
export type AuthorityConfiguration = z.output<typeof authority>

export const trust = z.array(authority).superRefine((rows, context) => {
  for (const [at, row] of rows.entries()) {
    const isTaken = row.label === ownAuthority || rows.findIndex((other) => other.label === row.label) < at
    if (isTaken) context.addIssue({ code: 'custom', path: [at, 'label'], message: `${row.label} is taken` })
  }
})

const handlingText = (state: VerificationFault) =>
  z
    .string()
    .superRefine((text, context) => {
      const handling = parseHandling(text)
      const message = handling === undefined ? handlingForm : handlingFault(state, handling)
      if (message !== undefined) context.addIssue({ code: 'custom', message })
    })
    .optional()
    .describe(meanings[state])

const handling = z.strictObject({
  none: handlingText('none'),
  self_signed: handlingText('self_signed'),
  bad_signature: handlingText('bad_signature'),
  unknown_ca: handlingText('unknown_ca'),
  revoked: handlingText('revoked'),
  held: handlingText('held'),
  stale_status: handlingText('stale_status'),
  expired: handlingText('expired'),
  not_yet_valid: handlingText('not_yet_valid'),
  wrong_eku: handlingText('wrong_eku'),
  not_registered: handlingText('not_registered'),
  pin_mismatch: handlingText('pin_mismatch'),
  client_id_mismatch: handlingText('client_id_mismatch'),
} satisfies Record<VerificationFault, z.ZodType>)

const network = z
  .string()
  .refine(
    (text) => z.cidrv4().safeParse(text).success || z.cidrv6().safeParse(text).success,
    'a network is wanted, as in 10.0.0.0/8',
  )
const serverName = z.string().regex(/^(?=.{1,253}$)[a-z0-9-]+(\.[a-z0-9-]+)*$/, 'a DNS name in lower case is wanted')

const listener = z.strictObject({
  name: label.describe('Unique; in logs and endpoints. `mqtts` is the listener at broker.listen'),
  transport: z
    .enum(['mqtts', 'wss'])
    .default('mqtts')
    .describe('MQTT over TLS, or over WebSocket over TLS at the path /mqtt'),
  listen: address.optional().describe('host:port; for the listener mqtts it is broker.listen'),
  mode: z
    .enum(['enforce', 'permissive'])
    .default('enforce')
    .describe('permissive quarantines what enforce rejects, but for revoked, held, bad_signature, client_id_mismatch'),
  handling: handling
    .prefault({})
    .describe('Verification state to reject, quarantine, log-only or grace(DURATION): goes over the mode'),
  trust: z
    .array(label)
    .min(1)
    .default([ownAuthority])
    .describe('Labels of the CAs whose certificates are taken here: fleetgate, and those of broker.trust'),
  names: z.array(serverName).default([]).describe('Server names (SNI) that are answered to; empty: any, and none'),
  proxyProtocol: z
    .strictObject({ from: z.array(network).min(1).describe('Networks of the proxies; a header from others is no TLS') })
    .optional()
    .describe('PROXY protocol version 2: demanded from these addresses, read from no other'),
  password: z
    .strictObject({ file: z.string().min(1).describe('Lines of `fleetgate broker passwd DEVICE`') })
    .optional()
    .describe('A second factor beside the certificate'),
})
export type ListenerConfiguration = z.output<typeof listener>

export const listeners = z.array(listener).superRefine((rows, context) => {
  const fault = (at: number, key: string, message: string): void =>
    context.addIssue({ code: 'custom', path: [at, key], message })
  for (const [at, { name, transport, listen }] of rows.entries()) {
    if (rows.findIndex((row) => row.name === name) < at) fault(at, 'name', `${name} stands twice`)
    if (name !== 'mqtts' && listen === undefined) fault(at, 'listen', 'host:port is wanted, for example 0.0.0.0:8884')
    if (name === 'mqtts' && listen !== undefined) fault(at, 'listen', 'the listener mqtts is at broker.listen')
    if (name === 'mqtts' && transport !== 'mqtts') fault(at, 'transport', 'the listener mqtts speaks MQTT over TLS')
  }
})

/** Every listener with its address, first the one at `broker.listen`. */
export function listenersOf(broker: {
  listen: string
  listeners: ListenerConfiguration[]
}): (ListenerConfiguration & { listen: string })[] {
  const first = broker.listeners.find(({ name }) => name === 'mqtts') ?? listener.parse({ name: 'mqtts' })
  const others = broker.listeners.filter((row) => row !== first)
  return [first, ...others].map((row) => ({ ...row, listen: row.listen ?? broker.listen }))
}

/** A label in a listener that nobody has is a CA that somebody believes to be asked for. */
export function unknownLabels(broker: {
  trust: AuthorityConfiguration[]
  listeners: ListenerConfiguration[]
}): { path: (string | number)[]; message: string }[] {
  const known = new Set([ownAuthority, ...broker.trust.map((row) => row.label)])
  return broker.listeners.flatMap((row, at) =>
    row.trust.flatMap((name, index) =>
      known.has(name)
        ? []
        : [{ path: ['listeners', at, 'trust', index], message: `no CA ${name}; known: ${[...known].join(', ')}` }],
    ),
  )
}
