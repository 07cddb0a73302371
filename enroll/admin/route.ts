import type { TLSSocket } from 'node:tls'
import type { z } from 'zod'
import type { ConfigurationView } from '../../contract/admin-api.ts'
import type { Reloaded } from '../../contract/live-settings.ts'
import type { Role } from '../../contract/operator-api.ts'
import type { ProblemCode } from '../../contract/problems.ts'
import type { Log } from '../../runtime/log.ts'
import type { Checkpoints } from '../ca/checkpoints.ts'
import type { CrlPublisher } from '../ca/crl-publisher.ts'
import type { Authority } from '../ca/hierarchy.ts'
import type { ServedList } from '../ca/revocation-lists.ts'
import type { FeedServer } from '../feed-server.ts'
import type { OwnPeers } from '../own-peers.ts'
import type { ApprovalQueue } from '../ra/approval-queue.ts'
import type { EnrollmentDenials } from '../ra/enrollment-denials.ts'
import type { RegistrationAuthority } from '../ra/registration-authority.ts'
import type { Asked } from '../registry/asked.ts'
import type { AuditFact } from '../registry/audit-log.ts'
import type { Registry } from '../registry/registry.ts'
import type { Streams } from './events.ts'

export type AdminContext = {
  registry: Registry
  ra: RegistrationAuthority
  approvals: ApprovalQueue
  feed: FeedServer
  peers: OwnPeers
  /** absent where no status port is configured */
  lists: CrlPublisher | undefined
  served: () => ServedList[]
  denials: EnrollmentDenials
  checkpoints: Checkpoints
  dataDir: string
  configFile: string | undefined
  clock: () => Date
  log: Log
  rootFingerprint: string
  rootEnds: Date
  /** PEM of the CA certificates, the root first. */
  anchors: readonly string[]
  /** PEM of the CAs that a chain may be built from at the EST service. */
  clientAuthorities: () => readonly string[]
  /** The CA that signs the certificates of devices, operators and brokers. */
  issuing: Authority
  /** Name of the broker whose credential enroll keeps in the data folder. */
  ownBroker: string
  startedAt: Date
  configuration: () => ConfigurationView
  /** absent where the service does not know how its configuration is read */
  reload: ((who: Pick<AuditFact, 'actor' | 'remoteAddress'>) => Promise<Reloaded>) | undefined
  streams: Streams
}

type Input = {
  params: Record<string, string>
  asked: Asked
  /** Of the end of the request, answered or not. */
  signal: AbortSignal
  socket: TLSSocket
  /** Names the revision that is answered, as ETag. */
  tag(rev: number): void
  lastEventId: string | undefined
  /** Throws once who asks would not be let in any more. */
  requireStanding(): Promise<void>
}

/** One row of the table: who may ask it, what it takes, and what it answers. The OpenAPI document is printed from them. */
export type Route<Q extends z.ZodType = z.ZodType, B extends z.ZodType = z.ZodType, A extends z.ZodType = z.ZodType> = {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  path: string
  /** The least that a caller must have. */
  role: Role
  /** Of an operator in the path: that of whoever is not the one, where it is another. */
  roleForOthers?: Role
  summary: string
  status?: number
  query?: Q
  body?: B
  answer: A
  /** May be asked with If-Match, the ETag of the same path; of any other row that is refused, since it would not be looked at. */
  conditional?: true
  /** What it answers is text of this type, piece by piece, and no JSON. */
  media?: 'text/event-stream' | 'application/octet-stream'
  /** Beside those that any request may meet. */
  problems?: readonly ProblemCode[]
  handle(input: Input & { query: z.output<Q>; body: z.output<B> }, context: AdminContext): Promise<z.input<A>>
}
/** Keeps the schemas' types for the handler beside them. */
export const route = <Q extends z.ZodType, B extends z.ZodType, A extends z.ZodType>(row: Route<Q, B, A>): Route =>
  row as unknown as Route
