import { hash } from 'node:crypto'
import type { EstOperation } from '../../contract/configuration.ts'
import { type ProblemCode, problems } from '../../contract/problems.ts'
import type { MessageSigner } from '../../pki/signed-data.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import type { EdgeAnswer, EdgeRequest, EdgeRequestHead } from '../../runtime/https.ts'
import { AttemptLimit, networkOf } from '../../runtime/limits.ts'
import type { Log } from '../../runtime/log.ts'
import { LogLimit } from '../../runtime/log-limit.ts'
import type { CertificateAuthority } from '../ca/certificate-authority.ts'
import type { Hierarchy } from '../ca/hierarchy.ts'
import type { Fork } from '../ca/supersession.ts'
import type { Meters } from '../meters.ts'
import { readRenewalEvidence } from '../ra/current-certificate.ts'
import type { EnrollmentDenials } from '../ra/enrollment-denials.ts'
import { type Asked, readEnrollmentEvidence, readEvidence } from '../ra/evidence.ts'
import { findWatchedUse, type WatchedKeyUse, watchedUseFact } from '../ra/key-watch.ts'
import { defaultLabel, type Label, type Profiles } from '../ra/profiles.ts'
import type { RegistrationAuthority } from '../ra/registration-authority.ts'
import { findBasicCredentials } from '../ra/token.ts'
import type { Registry } from '../registry/registry.ts'
import { csrattrs } from './csrattrs.ts'
import { cacerts } from './distribution.ts'
import { simpleenroll, simplereenroll } from './enroll.ts'
import { fullcmc } from './fullcmc.ts'
import { serverkeygen } from './serverkeygen.ts'

export type EstContext = {
  registry: Registry
  hierarchy: Hierarchy
  profiles: Profiles
  ra: RegistrationAuthority
  ca: CertificateAuthority
  /** Signs what this service says for itself: keys it made, CMC answers. */
  responder: () => MessageSigner
  clock: () => Date
  log: Log
  attemptsPerMinute: number
  denials: EnrollmentDenials
  /** Called for every use, however many there are. */
  onWatchedKey: (use: WatchedKeyUse) => void
  onFork: (fork: Fork, request: EdgeRequestHead) => void
  /** Called for every renewal with a certificate that has a successor in use. */
  onOutlived: (serial: string, request: EdgeRequestHead) => void
  meters: Pick<Meters, 'answered' | 'took'>
  /** Renewals by device. */
  renewals: AttemptLimit
  /** How long older certificates stay good once a newer one is used. */
  overlapMs: number
}

type Operation = {
  method: 'GET' | 'POST'
  /** What the body must be (RFC 7030 4.2.1); none for GET. */
  mediaType?: string
  /** Reads what the caller proves, as `handle` does; none where nobody has to prove anything. */
  prove?(request: EdgeRequestHead, asked: Asked): Promise<unknown>
  handle(request: EdgeRequest, label: Label, context: EstContext): Promise<EdgeAnswer | Refusal>
}

/** A refusal that an operation words itself; status, headers and record are those of any other. */
export type Refusal = {
  refused: FleetError
  headers: Record<string, string>
  body: (about: string) => Promise<string | Buffer>
}

const prefix = '/.well-known/est/'

/** RFC 7030 3.2.2, table of operations. */
const operations: Record<EstOperation, Operation> = {
  cacerts: { method: 'GET', handle: cacerts },
  csrattrs: { method: 'GET', handle: csrattrs },
  simpleenroll: {
    method: 'POST',
    mediaType: 'application/pkcs10',
    prove: readEnrollmentEvidence,
    handle: simpleenroll,
  },
  fullcmc: { method: 'POST', mediaType: 'application/pkcs7-mime', prove: readEvidence, handle: fullcmc },
  serverkeygen: { method: 'POST', mediaType: 'application/pkcs10', prove: readEvidence, handle: serverkeygen },
  simplereenroll: {
    method: 'POST',
    mediaType: 'application/pkcs10',
    prove: (request, { registry, now }) => readRenewalEvidence(registry, request, now),
    handle: simplereenroll,
  },
}

/** The EST edge: finds the operation, checks what its row demands, and renders and records every refusal. */
export function createEst(context: EstContext): {
  admit(request: EdgeRequestHead): Promise<void>
  handle(request: EdgeRequest): Promise<EdgeAnswer>
  fail(error: unknown, request: EdgeRequestHead): Promise<EdgeAnswer>
  drop(cause: ProblemCode, message: string, remoteAddress: string): string
  /** From now on so many refusals of a caller in a minute. */
  allow(attemptsPerMinute: number): void
} {
  const failures = new AttemptLimit(context.attemptsPerMinute)
  const failuresOfNetwork = new AttemptLimit(context.attemptsPerMinute * 10)
  // The audit log is kept for ever, so strangers may write only so much into it.
  const failuresOfAll = new AttemptLimit(context.attemptsPerMinute * 20)

  const guesses = new AttemptLimit(context.attemptsPerMinute)

  async function handle(request: EdgeRequest): Promise<EdgeAnswer> {
    const began = performance.now()
    try {
      return await answerOf(request)
    } finally {
      context.meters.took(request.path, performance.now() - began)
    }
  }

  function find(request: EdgeRequestHead): { operation: Operation; label: Label } {
    const credential = credentialOf(request)
    const lockedMs = credential === undefined ? 0 : guesses.waitMs(credential, context.clock().getTime())
    if (lockedMs > 0) throw tooMany(lockedMs)
    return findOperation(request, context.profiles)
  }

  /** A credential that is refused is refused before the body is asked for; what is good is read again when the body is there. */
  async function admit(request: EdgeRequestHead): Promise<void> {
    const { operation, label } = find(request)
    await operation.prove?.(request, { registry: context.registry, label, now: context.clock() })
  }

  async function answerOf(request: EdgeRequest): Promise<EdgeAnswer> {
    const { operation, label } = find(request)
    // With a token, or where nothing is to be proved, whoever holds a stolen key in the handshake is served, and told of.
    const watched = await findWatchedUse(context.registry, undefined, { request, now: context.clock() })
    const answer = await operation.handle(request, label, context)
    if (!('refused' in answer)) {
      if (watched !== undefined) context.onWatchedKey(watched)
      context.meters.answered(request.path, answer.status === 202 ? 'pending' : 'ok')
      return answer
    }
    const { refused, headers, body } = answer
    const denial = note(refused, request)
    const plain = await told(refused, request, denial)
    // Who is told to wait is told in plain text, like everywhere.
    if (plain.status !== problems[refused.code].status) return plain
    return {
      ...plain,
      headers: { ...plain.headers, ...headers },
      body: await body(aboutOf(request.id, denial)),
    }
  }

  /** What ends before anything is asked: a connection, a handshake. It is in no audit log; the denials and the metrics have it. */
  const drop = (cause: ProblemCode, message: string, remoteAddress: string): string =>
    context.denials.note({
      cause,
      message,
      path: '',
      remoteAddress,
      deviceId: undefined,
      claimedId: undefined,
      now: context.clock(),
    })

  const fail = (error: unknown, request: EdgeRequestHead): Promise<EdgeAnswer> =>
    told(error, request, note(error, request))

  async function told(error: unknown, request: EdgeRequestHead, denial: string): Promise<EdgeAnswer> {
    const known = await record(error, request, denial).catch((cause: unknown) => cause)
    context.meters.answered(request.path, isFleetError(known) ? known.code : 'internal')
    logFailure(known, request, denial)
    return renderFailure(known, request.id, denial)
  }

  /** @returns the id under which it can be asked about, as a refusal or as a failure of ours */
  function note(error: unknown, request: EdgeRequestHead): string {
    const known = isFleetError(error) ? error : new FleetError('internal', 'the service failed; its log says why')
    const { code: cause, message } = known
    const { deviceId, ...found } = known.context as { deviceId?: string; claimedId?: string }
    const { path, remoteAddress } = request
    const claimedId = found.claimedId ?? findBasicCredentials(request)?.username
    return context.denials.note({ cause, message, path, remoteAddress, deviceId, claimedId, now: context.clock() })
  }

  /** @returns what the caller is told: who fails too often loses the reason, and its place in the audit log */
  async function record(error: unknown, request: EdgeRequestHead, denial: string): Promise<unknown> {
    if (!isFleetError(error) || problems[error.code].status >= 500) return error
    // A request without any credential is how some clients begin; it is answered with the challenge and not counted.
    const counts = error.code !== 'unauthenticated'
    // A good credential is never held up by its neighbours' failures: only refusals are counted.
    const now = context.clock()
    // What was no credential is looked at no more for a while. One that is good is never locked out: it is another.
    const credential = credentialOf(request)
    if (counts && credential !== undefined && problems[error.code].status === 401)
      guesses.note(credential, now.getTime())
    let waitMs = counts ? spend(request, now.getTime()) : 0
    const watched = await findWatchedUse(context.registry, error, { request, now })
    if (watched !== undefined) context.onWatchedKey(watched)
    if (error.code === 'certificate_superseded') context.onOutlived(String(error.context.serial), request)
    if (!counts) {
      if (watched === undefined) return error
      waitMs = spend(request, now.getTime())
    }
    if (waitMs > 0) return error.code === 'too_many_requests' ? error : tooMany(waitMs)
    await noteRefusal(request, error, { ...context, denial, watched })
    return error
  }

  /** Counts a refusal before anything is awaited. @returns how long the caller is to wait when it had too many, else 0 */
  function spend(request: EdgeRequestHead, now: number): number {
    const network = networkOf(request.remoteAddress)
    const caller = `${network} ${nameOf(request)}`
    const limits: [AttemptLimit, string][] = [
      [failures, caller],
      [failuresOfNetwork, network],
      [failuresOfAll, ''],
    ]
    const waitMs = Math.max(...limits.map(([limit, key]) => limit.waitMs(key, now)))
    if (waitMs === 0) for (const [limit, key] of limits) limit.note(key, now)
    return waitMs
  }

  const lines = new LogLimit({ burst: 20, everyMs: 10_000 })
  function logFailure(error: unknown, request: EdgeRequestHead, denial: string): void {
    const now = context.clock().getTime()
    if (!isFleetError(error) || problems[error.code].status >= 500) {
      const reason = isFleetError(error) ? error.code : 'internal'
      // Whoever asks meets the one fault: it is told of, not of each of them.
      const told = lines.take(reason, now)
      const fields = {
        event: 'request.failed',
        reason,
        requestId: request.id,
        denial,
        path: request.path.slice(0, 200),
        err: error,
      }
      if (told) context.log.error({ ...fields, ...told }, 'request failed')
    } else {
      // A storm from one address (IPv6: one /64) is told in summary.
      const told = lines.take(networkOf(request.remoteAddress), now)
      const { id: requestId, remoteAddress } = request
      const fields = {
        event: 'enrollment.refused',
        reason: error.code,
        requestId,
        denial,
        remoteAddress,
        path: request.path.slice(0, 200),
        detail: error.message,
      }
      if (told) context.log.warn({ ...fields, ...error.context, ...told }, 'enrollment refused')
    }
  }
  const allow = (attempts: number): void => {
    for (const limit of [failures, guesses]) limit.allow(attempts)
    failuresOfNetwork.allow(attempts * 10)
    failuresOfAll.allow(attempts * 20)
  }
  return { admit, handle, fail, drop, allow }
}

const tooMany = (waitMs: number): FleetError =>
  new FleetError('too_many_requests', 'too many refused requests; wait before the next', {
    context: { retryAfterSeconds: Math.ceil(waitMs / 1000) },
  })

/** What was shown, as a whole, and from where; undefined where nothing was. */
function credentialOf({ headers, certificate, remoteAddress }: EdgeRequestHead): string | undefined {
  const { authorization } = headers
  if (authorization === undefined && certificate === undefined) return undefined
  const shown = authorization === undefined ? '' : hash('sha256', authorization)
  return `${networkOf(remoteAddress)} ${shown} ${certificate === undefined ? '' : nameOfCertificate(certificate)}`
}

const names = new WeakMap<Buffer, string>()

/** Known for as long as its connection is there. */
function nameOfCertificate(certificate: Buffer): string {
  const name = names.get(certificate) ?? hash('sha256', certificate)
  names.set(certificate, name)
  return name
}

/** What a caller says it is, so that its refusals are counted apart from its neighbours' at the same address. */
function nameOf(request: EdgeRequestHead): string {
  if (request.certificate !== undefined) return nameOfCertificate(request.certificate)
  return findBasicCredentials(request)?.username.slice(0, 64) ?? ''
}

const isOperation = (name: string): name is EstOperation => Object.hasOwn(operations, name)

/** `/.well-known/est/OPERATION`, or `/.well-known/est/LABEL/OPERATION` (RFC 7030 3.2.2). */
function findOperation(request: EdgeRequestHead, profiles: Profiles): { operation: Operation; label: Label } {
  if (!request.path.startsWith(prefix)) {
    throw new FleetError('not_found', `there is nothing here; EST is under ${prefix} (RFC 7030 3.2.2)`)
  }
  const [first = '', ...rest] = request.path.slice(prefix.length).split('/')
  const name = rest.length === 0 ? first : rest.join('/')
  const label = profiles.findLabel(rest.length === 0 ? defaultLabel : first)
  if (label === undefined) throw new FleetError('not_found', 'there is no such EST label or operation')
  if (!isOperation(name)) throw new FleetError('not_found', 'there is no such EST operation')
  const operation = operations[name]
  if (request.method !== operation.method) {
    throw new FleetError('method_not_allowed', `${name} takes ${operation.method}`, {
      context: { allow: operation.method },
    })
  }
  const mediaType = (request.headers['content-type'] ?? '').split(';', 1)[0]!.trim().toLowerCase()
  if (operation.mediaType !== undefined && mediaType !== operation.mediaType) {
    throw new FleetError(
      'media_type_unsupported',
      `the content type is ${mediaType.slice(0, 100) || 'missing'}; ${name} takes ${operation.mediaType}`,
    )
  }
  if (operation.mediaType !== undefined) requireNoCoding(request)
  return { operation, label }
}

/** Nothing is unpacked here: a few octets can become a gigabyte. `base64` is what the body of every EST request is. */
function requireNoCoding({ headers }: EdgeRequestHead): void {
  const coding = (headers['content-encoding'] ?? '').trim().toLowerCase()
  if (['', 'identity', 'base64'].includes(coding)) return
  throw new FleetError(
    'media_type_unsupported',
    `the body has the content coding ${coding.slice(0, 100)}; send it as it is, without Content-Encoding`,
    { context: { coding: coding.slice(0, 100) } },
  )
}

async function noteRefusal(
  request: EdgeRequestHead,
  error: FleetError,
  { registry, clock, denials, denial, watched }: EstContext & { denial: string; watched: WatchedKeyUse | undefined },
): Promise<void> {
  const { deviceId, serial, claimedId, unsaid } = error.context as Partial<Record<string, string>>
  const named = deviceId ? `device:${deviceId}` : serial ? `certificate:${serial}` : undefined
  // Who has shown nothing that counts only says who it is.
  const isProven = problems[error.code].status !== 401
  const claimed = named === undefined ? claimedId && `device:${claimedId}` : isProven ? undefined : named
  await registry.commit({
    writes: denials.writes(denial),
    audit: [
      {
        action: 'enrollment.refused',
        actor: (isProven && named) || 'unknown',
        // Octets that are no request name nothing.
        subject: request.path || 'unread',
        outcome: 'refused',
        reason: error.code,
        details: {
          sentence: error.message,
          ...(unsaid && { unsaid }),
          denial,
          ...(claimed && { claimed }),
        },
        remoteAddress: request.remoteAddress,
        requestId: request.id,
      },
      ...(watched === undefined ? [] : [watchedUseFact(watched)]),
    ],
    at: clock(),
  })
}

// RFC 7030 4.2.3: an error is a status and plain text for a person.
function renderFailure(error: unknown, requestId: string, denial: string): EdgeAnswer {
  const headers: Record<string, string> = { 'Content-Type': 'text/plain; charset=utf-8' }
  if (!isFleetError(error)) {
    const body = `internal: the service failed; tell the operator (${aboutOf(requestId, denial)})\n`
    return { status: 500, headers, body }
  }
  const { status } = problems[error.code]
  if (status === 503) headers['Retry-After'] = '5'
  // 401 always carries the challenge, also for a wrong token: libest gives up without it.
  if (status === 401) headers['WWW-Authenticate'] = 'Basic realm="fleetgate"'
  if (error.code === 'method_not_allowed') headers.Allow = String(error.context.allow)
  // RFC 9110 15.5.16: which coding was wanted, where it is the coding that was not.
  if (error.code === 'media_type_unsupported' && error.context.coding !== undefined)
    headers['Accept-Encoding'] = 'identity'
  if (status === 429) headers['Retry-After'] = String(error.context.retryAfterSeconds)
  return { status, headers, body: `${error.code}: ${error.message} (${aboutOf(requestId, denial)})\n` }
}

const aboutOf = (requestId: string, denial: string): string => `request ${requestId}, denial ${denial}`
