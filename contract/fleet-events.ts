/** What a broker tells applications over MQTT: events as they happen, and of each device, retained, whether it is there. */
import { z } from 'zod'
import { denialStages } from './denials.ts'
import { verificationStates } from './verification.ts'

export const eventTypes = [
  'connected',
  'disconnected',
  'refused',
  'denied',
  'enrolled',
  'renewed',
  'expiring',
  'held',
  'enabled',
  'revoked',
  'alert',
] as const
export type EventType = (typeof eventTypes)[number]

export const eventTopic = (type: EventType): string => `$fleetgate/events/${type}`
export const anyEvent = '$fleetgate/events/#'
export const presenceTopic = (deviceId: string): string => `$fleetgate/devices/${deviceId}/presence`
/** Every presence there is. */
export const anyPresence = presenceTopic('+')

const time = z.iso.datetime()

const certificate = z
  .strictObject({
    fingerprint: z.string().describe('SHA-256 of its DER, in hex'),
    serial: z.string().describe('In hex'),
    subject: z.string().optional(),
    issuer: z.string().optional(),
    notBefore: time.optional(),
    notAfter: time.optional(),
    authority: z.string().optional().describe('What the gateway calls the CA that issued it'),
    pem: z
      .string()
      .optional()
      .describe('URL-encoded PEM, as in an X-SSL-Client-Cert header; with `broker.events.certificatePem`'),
  })
  .describe('Of a certificate that is not at hand only what the registry tells')
export type EventCertificate = z.output<typeof certificate>

const peer = {
  listener: z.string().optional(),
  remoteAddress: z.string().optional(),
  state: z.enum(verificationStates).optional().describe('What verification of the peer found'),
  action: z.string().optional().describe('What the listener does about that'),
  certificate: certificate.optional(),
}
const reason = z
  .string()
  .optional()
  .describe(
    'A code of errors.md; of a connection that ended also disconnected, connection_lost, keep_alive_expired or shutdown; of a certificate that was revoked the reason of RFC 5280',
  )

/** When each is told. */
export const eventMeanings: Record<EventType, string> = {
  connected: 'A device has a session: its CONNECT was accepted',
  disconnected: 'Its connection ended, with `reason`',
  refused: 'A peer was refused at its handshake or its CONNECT, or let into quarantine alone, with `reason`',
  denied: 'A publish, a subscription, a will that was due or a delivery was not allowed',
  enrolled: 'The registry has a certificate of a device that was not renewed from another one',
  renewed: 'The registry has a new certificate that was asked for with the one before',
  expiring: 'A certificate is about to expire, and was not renewed',
  held: 'A device was put on hold',
  enabled: 'It was taken off hold',
  revoked:
    'A device or a certificate was revoked, as `scope` says; of a device that is revoked each certificate is told of, too',
  alert: 'Somebody should look: `kind` says at what',
}

export const fleetEvent = z.strictObject({
  id: z.string().describe('One that is delivered twice has the same'),
  type: z.enum(eventTypes),
  at: time.describe('When it happened'),
  broker: z.string().describe('Name of the broker that tells it'),
  deviceId: z.string().optional().describe('Of the registry; missing where nothing shows which device it is'),
  clientId: z.string().optional(),
  reason,
  message: z.string().optional().describe('The same for people'),
  ...peer,
  stage: z.enum(denialStages).optional().describe('Where something was refused'),
  denial: z.string().optional().describe('For `fleetgate explain`'),
  asked: z
    .strictObject({
      action: z.enum(['publish', 'subscribe', 'receive']),
      topic: z.string(),
      qos: z.number(),
      retain: z.boolean(),
      bytes: z.number(),
    })
    .optional()
    .describe('What was denied'),
  scope: z.enum(['device', 'certificate']).optional().describe('What was revoked'),
  kind: z.string().optional().describe('Of an alert'),
  incident: z.string().optional().describe('Of an alert: where it was noted'),
  count: z
    .int()
    .min(1)
    .optional()
    .describe(
      'It stands for so many; without a device id for those of its type that were too many to be told one by one',
    ),
})
export type FleetEvent = z.output<typeof fleetEvent>

export const presence = z.strictObject({
  deviceId: z.string(),
  status: z
    .enum(['connected', 'disconnected', 'held', 'revoked'])
    .describe('connected: with one client id at least; held, revoked: as the registry says'),
  since: time.describe('When it became so'),
  at: time.describe('When it was told'),
  broker: z.string().describe('Name of the broker that tells it; another one tells what it sees itself'),
  reason,
  clientIds: z.array(z.string()).describe('That are connected'),
  ...peer,
})
export type Presence = z.output<typeof presence>
