import { randomUUID } from 'node:crypto'
import type { TLSSocket } from 'node:tls'
import { includesRole, type Role } from '../../contract/operator-api.ts'
import { valuesOf } from '../../pki/names.ts'
import { FleetError } from '../../runtime/errors.ts'
import { AttemptLimit, networkOf } from '../../runtime/limits.ts'
import { supersedeOperatorCertificates } from '../ca/operators.ts'
import { readCertificateEvidence, requireIssued } from '../ra/current-certificate.ts'
import { type ApiTokenRecord, findApiToken, writeApiToken } from '../registry/api-tokens.ts'
import type { Condition } from '../registry/conditions.ts'
import type { Stored } from '../registry/engine.ts'
import { findOperator } from '../registry/operators.ts'
import type { Registry } from '../registry/registry.ts'

/** Who asks: as the audit log names them, what they may, and what that rests on. */
export type Caller = { actor: string; role: Role; standing: readonly Condition[] }
export type Shown = { socket: TLSSocket; authorization: string | undefined; remoteAddress: string }

const failuresPerMinute = 30
const useNotedEveryMs = 300_000

/** Says who asks, by the registry as it is at that moment: a caller who lost its standing loses its open connections too. */
export class Doorkeeper {
  readonly #registry: Registry
  readonly #failures = new AttemptLimit(failuresPerMinute)

  constructor(registry: Registry) {
    this.#registry = registry
  }

  /**
   * @throws FleetError `certificate_missing` and the other faults of a certificate, `forbidden`, `operator_disabled`,
   *   `api_token_invalid`, `api_token_expired`, `too_many_requests`
   */
  authenticate(shown: Shown, now: Date): Promise<Caller> {
    return shown.authorization === undefined
      ? this.#byCertificate(shown, now)
      : this.#byToken(shown.authorization, shown.remoteAddress, now)
  }

  /** Operators have a certificate that the registry knows as an operator's; a device's is not enough. */
  async #byCertificate({ socket, remoteAddress }: Shown, now: Date): Promise<Caller> {
    const { record, certificate } = await readCertificateEvidence(
      this.#registry,
      {
        certificate: socket.getPeerX509Certificate()?.raw,
        certificateFault: socket.authorized ? undefined : String(socket.authorizationError),
      },
      now,
    )
    const context = { serial: record.doc.serial }
    const name = valuesOf(certificate.subject, 'CN')[0] ?? ''
    const operator = record.doc.kind === 'operator' ? await findOperator(this.#registry, name) : undefined
    if (operator === undefined) throw new FleetError('forbidden', "the certificate is not an operator's", { context })
    const { role, status, renewals = [] } = operator.doc
    if (status !== 'active') throw new FleetError('operator_disabled', `the operator ${name} is ${status}`, { context })
    if (renewals.some(({ serial }) => serial === record.doc.serial)) {
      const requestId = `use-${randomUUID()}`
      const renewal = { name, shown: record.doc.serial }
      await supersedeOperatorCertificates(this.#registry, renewal, { remoteAddress, requestId, now })
    }
    const { serial } = record.doc
    const standing: Condition[] = [
      { kind: 'certificate', id: serial, require: (now) => requireIssued(now!) },
      { kind: 'operator', id: name, require: (now) => requireSame(now?.status === status && now.role === role, name) },
    ]
    return { actor: `operator:${name}`, role, standing }
  }

  async #byToken(authorization: string, remoteAddress: string, now: Date): Promise<Caller> {
    const [, text = ''] = /^bearer +(\S{1,200})$/i.exec(authorization) ?? []
    const known = await findApiToken(this.#registry, text)
    if (known === undefined) throw this.#failed('api_token_invalid', 'there is no such API token', remoteAddress, now)
    const { name, role, expiresAt, digest } = known.doc
    if (new Date(expiresAt) <= now) {
      throw this.#failed('api_token_expired', `the API token ${name} expired at ${expiresAt}`, remoteAddress, now)
    }
    this.#noteUse(known, remoteAddress, now)
    const require = (now: ApiTokenRecord | undefined): void => {
      if (now?.digest !== digest) throw new FleetError('api_token_invalid', `the API token ${name} was removed`)
    }
    return { actor: `api-token:${name}`, role, standing: [{ kind: 'apiToken', id: name, require }] }
  }

  /** A token that is good is let in however often others failed: who guesses must not lock out who shares its address. */
  #failed(
    code: 'api_token_invalid' | 'api_token_expired',
    sentence: string,
    remoteAddress: string,
    now: Date,
  ): FleetError {
    const network = networkOf(remoteAddress)
    const waitMs = this.#failures.waitMs(network, now.getTime())
    if (waitMs > 0) {
      const context = { retryAfterSeconds: Math.ceil(waitMs / 1_000) }
      return new FleetError('too_many_requests', 'too many API tokens that are not good; wait before the next', {
        context,
      })
    }
    this.#failures.note(network, now.getTime())
    return new FleetError(code, sentence)
  }

  /** Beside the answer, and seldom: a program may ask a hundred times a second. */
  #noteUse({ doc, rev }: Stored<ApiTokenRecord>, remoteAddress: string, now: Date): void {
    if (doc.lastUsedAt !== undefined && now.getTime() - new Date(doc.lastUsedAt).getTime() < useNotedEveryMs) return
    const used = { ...doc, lastUsedAt: now.toISOString(), lastUsedFrom: remoteAddress }
    this.#registry
      .commit({ requestId: `use-${randomUUID()}`, writes: [writeApiToken(used, rev)], audit: [], at: now })
      .catch(() => {}) // Somebody noted it first, or it was removed; a store that fails says so to who asks for a change.
  }
}

function requireSame(isSame: boolean, name: string): void {
  if (!isSame) throw new FleetError('forbidden', `what ${name} may was changed at this moment; ask again`)
}

/** @throws FleetError `role_insufficient` */
export function requireRole({ actor, role }: Caller, wanted: Role): void {
  if (includesRole(role, wanted)) return
  throw new FleetError('role_insufficient', `this takes the role ${wanted}; ${actor} has ${role}`)
}
