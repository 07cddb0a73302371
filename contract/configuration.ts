/** The whole configuration file: one schema, read by every process of a gateway, each taking its own part. */
import { z } from 'zod'
import { address, listeners, trust, unknownLabels } from './listeners.ts'
import { audit, brokerId, clones, stale, status } from './service-settings.ts'

const hostName = /^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)$/

const keyType = z.enum(['P-256', 'P-384', 'Ed25519', 'RSA'])

const evidenceKind = z.enum(['token', 'factory', 'claim', 'approval'])
/** How a device can prove itself for its first certificate. */
export type EvidenceKind = z.output<typeof evidenceKind>

const fate = z.enum(['purge', 'keep']).optional()
const onRevoke = z
  .strictObject({
    retained: fate.describe('Messages that it has retained'),
    queued: fate.describe('Its messages that wait for others'),
  })
  .default({})
  .describe(
    'What becomes of what a device has published when it is revoked; without it, purge for one that was stolen and keep for others',
  )

const profile = z.strictObject({
  validityDays: z.int().min(1).max(3650).default(30).describe('Lifetime of a certificate of this profile'),
  organization: z.string().min(1).max(64).optional().describe('O of the subject'),
  keyTypes: z
    .array(keyType)
    .min(1)
    .default(keyType.options)
    .describe('Keys that are certified, the preferred one first; RSA is 2048 to 4096 bits'),
  evidence: z
    .array(evidenceKind)
    .min(1)
    .default(['token'])
    .refine((kinds) => new Set(kinds).size === kinds.length, 'each may stand once')
    .refine((kinds) => !(kinds.includes('factory') && kinds.includes('claim')), 'a connection shows one certificate')
    .describe(
      'What a first enrollment needs, all of it: a one-time token, the certificate that the factory gave it, the claim certificate that it shares with others, the approval of an operator for this very request',
    ),
  channelBinding: z
    .enum(['optional', 'required'])
    .default('optional')
    .describe(
      'Whether a request must name its TLS connection in challengePassword (RFC 7030 3.5); one that does is checked',
    ),
  serverKeygen: z
    .enum(['off', 'encrypted', 'clear'])
    .default('off')
    .describe(
      'Whether keys are generated here for devices that cannot (serverkeygen): only encrypted for a key they have, or also in clear inside TLS',
    ),
  onRevoke,
})

/** RFC 7030 3.2.2: the paths that EST has, which is why no label may have their names. */
export const estOperations = [
  'cacerts',
  'simpleenroll',
  'simplereenroll',
  'fullcmc',
  'serverkeygen',
  'csrattrs',
] as const
export type EstOperation = (typeof estOperations)[number]

const factory = z.strictObject({
  authorities: z
    .string()
    .describe(
      'File with the CA certificates (PEM) of the factory, those that issue to devices directly; trusted for nothing else',
    ),
  serialFrom: z
    .enum(['serialNumber', 'CN'])
    .default('serialNumber')
    .describe('Attribute of the subject with the serial number that the allow-list knows'),
})
export type FactorySettings = z.output<typeof factory>

const claim = z.strictObject({
  authorities: z
    .string()
    .optional()
    .describe('File with the CA certificates (PEM) that issue claim certificates directly'),
  fingerprints: z
    .array(z.string().regex(/^[0-9a-f]{64}$/, 'SHA-256 of the certificate (DER) is wanted, 64 lower-case hex digits'))
    .default([])
    .describe('Claim certificates by the SHA-256 of their DER'),
})
export type ClaimSettings = z.output<typeof claim>

const label = z.strictObject({
  profile: z.string().optional().describe('The only profile that is enrolled here; without it each device has its own'),
  factory: factory.optional(),
  claim: claim.optional(),
})

const approvals = z.strictObject({
  maxPending: z.int().min(1).max(100_000).default(1_000).describe('Requests that may wait for approval, in all'),
  maxPendingPerAddress: z.int().min(1).default(20).describe('The same for one address (IPv6: for one /64)'),
  maxPendingPerDevice: z.int().min(1).default(5).describe('The same for one device id'),
  retryAfterMs: z.int().min(1_000).default(60_000).describe('When a device that waits is to ask again'),
  expireMs: z
    .int()
    .min(60_000)
    .default(7 * 24 * 3_600_000)
    .describe('After that a request is forgotten, whatever was decided'),
})
export type ApprovalSettings = z.output<typeof approvals>

const fields = z.strictObject({
  data: z.string().default('./data').describe('Folder for keys, registry and state; --data overrides it'),
  names: z
    .array(z.string().regex(hostName, 'a DNS name or an IP address is wanted'))
    .min(1)
    .default(['localhost', '127.0.0.1', '::1'])
    .describe('DNS names and IP addresses that devices reach this gateway by: they stand in its server certificates'),
  keys: z
    .strictObject({
      passphraseFile: z
        .string()
        .optional()
        .describe('File with the passphrase that encrypts every private key on disk'),
    })
    .prefault({}),
  log: z
    .strictObject({
      level: z
        .enum(['debug', 'info', 'warn', 'error', 'silent'])
        .default('info')
        .describe('Least severe line that is written'),
    })
    .prefault({}),
  profiles: z
    .record(z.string().regex(/^[a-z][a-z0-9-]{0,31}$/), profile)
    .prefault({ sensor: {}, camera: {}, service: {} })
    .describe('Certificate profiles by name; a change is in force without a restart'),
  labels: z
    .record(z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/), label)
    .default({})
    .describe(
      'EST labels by name: `/.well-known/est/NAME/…`. The path without a label is the label `default`, which is always there. A change is in force without a restart',
    ),
  enroll: z
    .strictObject({
      est: address.default('0.0.0.0:8443').describe('EST over HTTPS (RFC 7030), for devices'),
      admin: address.default('127.0.0.1:9443').describe('Admin API over mutual TLS, for operators'),
      feed: address.default('127.0.0.1:9444').describe('Trust feed over mutual TLS, for brokers'),
      metrics: address
        .optional()
        .describe(
          'Plain HTTP without access control: /metrics for Prometheus, /livez, /readyz; for example 127.0.0.1:9465',
        ),
      maxBodyBytes: z.int().min(1024).max(1_048_576).default(65_536).describe('Largest EST request body'),
      requestTimeoutMs: z.int().min(100).default(15_000).describe('A request that is not complete by then is closed'),
      handshakeTimeoutMs: z
        .int()
        .min(100)
        .default(10_000)
        .describe('A peer that has not finished TLS by then is closed'),
      maxConnections: z.int().min(1).default(1_000).describe('Open EST connections, all peers together'),
      maxConnectionsPerAddress: z
        .int()
        .min(1)
        .default(500)
        .describe('Open EST connections of one address (IPv6: of one /64)'),
      attemptsPerMinute: z
        .int()
        .min(1)
        .default(30)
        .describe(
          'Refused enrollments of one caller before 429 is answered, and of one wrong credential before it is looked at no more; ten times that for an address',
        ),
      approvals: approvals.prefault({}),
      renewalsPerHour: z.int().min(1).default(12).describe('Renewals of one device, successful or not'),
      reportsPerSecond: z.int().min(1).default(300).describe('Of one broker, after a burst of 100 times as many'),
      overlapMs: z
        .int()
        .min(0)
        .max(30 * 86_400_000)
        .default(300_000)
        .describe('How long the certificates before it stay good once a renewed one is used; until then they are good'),
      feedKeepMs: z
        .int()
        .min(3_600_000)
        .default(30 * 86_400_000)
        .describe(
          'How long events of the trust feed are kept for a broker that is away; after that it is told what counts by then. What every broker has is kept no longer, but for the last 10,000',
        ),
      status: status.prefault({}),
      audit: audit.prefault({}),
    })
    .prefault({}),
  broker: z
    .strictObject({
      id: brokerId.default('broker-1').describe('Name of this broker in logs and receipts'),
      listen: address.default('0.0.0.0:8883').describe('MQTT over mutual TLS, for devices'),
      feed: address.default('127.0.0.1:9444').describe('Where the trust feed of enroll is'),
      metrics: address
        .optional()
        .describe(
          'Plain HTTP without access control: /metrics for Prometheus, /livez, /readyz; for example 127.0.0.1:9464',
        ),
      workers: z
        .int()
        .min(0)
        .max(64)
        .default(0)
        .describe(
          'Processes that do TLS for the listeners, each at all of their addresses (Linux); 0: the broker does it itself. For machines with more than two cores, and fleets that reconnect all at once',
        ),
      handshakeTimeoutMs: z
        .int()
        .min(100)
        .default(10_000)
        .describe('A peer that has not finished TLS by then is closed'),
      connectTimeoutMs: z
        .int()
        .min(100)
        .default(10_000)
        .describe('A peer whose CONNECT was not accepted by then is closed'),
      maxConnectBytes: z.int().min(256).default(16_384).describe('Largest CONNECT packet'),
      maxPacketBytes: z.int().min(256).max(268_435_455).default(262_144).describe('Largest packet after CONNECT'),
      maxBufferedBytes: z
        .int()
        .min(4096)
        .default(1_048_576)
        .describe('Unread output a connection may hold before it is closed'),
      maxConnectionsPerDevice: z.int().min(1).default(10).describe('Live connections of one device'),
      maxConnections: z
        .int()
        .min(1)
        .default(20_000)
        .describe('Open connections of each listener, all devices together'),
      maxQuarantined: z.int().min(1).default(500).describe('Open connections in quarantine, all peers together'),
      quarantineStayMs: z
        .int()
        .min(1_000)
        .default(600_000)
        .describe('After that a connection in quarantine is closed; it may come again'),
      sessionExpiryMs: z
        .int()
        .min(1_000)
        .default(7 * 24 * 3_600_000)
        .describe('How long a session is kept for its device to come back; MQTT 5 clients may ask for less'),
      maxQueuedMessages: z.int().min(1).default(1_000).describe('Messages kept for one absent session'),
      maxStoredBytesPerDevice: z
        .int()
        .min(65_536)
        .default(8_388_608)
        .describe(
          'Kept for one device: half for messages that wait for it and its topic filters, half for messages it has retained',
        ),
      maxRetainedPerDevice: z.int().min(1).default(1_000).describe('Retained messages owned by one device'),
      events: z
        .strictObject({
          enabled: z
            .boolean()
            .default(true)
            .describe(
              'Whether presence and events are published below `$fleetgate/`, for whom the policy lets have them',
            ),
          maxPerSecond: z
            .int()
            .min(1)
            .max(10_000)
            .default(500)
            .describe('Events of one type in a second; what comes beyond is told as a number'),
          certificatePem: z
            .boolean()
            .default(false)
            .describe('Whether they have the certificate itself, as URL-encoded PEM'),
        })
        .prefault({}),
      clones: clones.prefault({}),
      listeners: listeners
        .default([])
        .describe('Listeners beside the one at broker.listen; an entry named mqtts says more about that one'),
      trust: trust.default([]).describe('CAs beside that of this gateway whose certificates devices may have'),
      stale: stale.prefault({}),
    })
    .superRefine((broker, context) => {
      const { afterMs, silenceMs } = broker.stale
      if (afterMs < silenceMs) {
        const message = `a broker asks enroll once in broker.stale.silenceMs, ${silenceMs}: at least so long is wanted`
        context.addIssue({ code: 'custom', path: ['stale', 'afterMs'], message })
      }
      for (const fault of unknownLabels(broker)) context.addIssue({ code: 'custom', ...fault })
    })
    .prefault({}),
})

export const configuration = fields.superRefine(({ labels, profiles }, context) => {
  const fault = (path: string[], message: string): void => context.addIssue({ code: 'custom', path, message })
  for (const [name, { evidence, channelBinding }] of Object.entries(profiles)) {
    if (channelBinding === 'required' && evidence.includes('approval')) {
      fault(
        ['profiles', name, 'channelBinding'],
        'a request that names its connection is another one each time, so none that was approved can come again',
      )
    }
  }
  for (const [name, { profile: wanted, ...trusted }] of Object.entries(labels)) {
    const evidence = wanted === undefined ? undefined : profiles[wanted]?.evidence
    for (const kind of ['factory', 'claim'] as const) {
      if (trusted[kind] !== undefined && wanted === undefined) {
        fault(['labels', name, kind], `a label that trusts ${kind} certificates names the profile they are for`)
      }
      if (trusted[kind] === undefined && evidence?.includes(kind)) {
        fault(['labels', name], `profile ${wanted} wants a ${kind} certificate; say under ${kind} which are trusted`)
      }
    }
    if ((estOperations as readonly string[]).includes(name)) {
      fault(['labels', name], 'an EST operation has this name; choose another (RFC 7030 3.2.2)')
    }
    if (wanted !== undefined && !Object.hasOwn(profiles, wanted)) {
      const known = Object.keys(profiles).join(', ')
      fault(['labels', name, 'profile'], `there is no profile ${JSON.stringify(wanted)}; known: ${known}`)
    }
  }
})

export type Configuration = z.output<typeof configuration>
export type LabelConfiguration = z.output<typeof label>
