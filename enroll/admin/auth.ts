import type { TLSSocket } from 'node:tls'
import { includesRole, type Role } from '../../contract/operator-api.ts'
import { valuesOf } from '../../pki/names.ts'
import { FleetError } from '../../runtime/errors.ts'
import { readCertificateEvidence } from '../ra/current-certificate.ts'
import { findOperator } from '../registry/operators.ts'
import type { Registry } from '../registry/registry.ts'

/** Who asks: as the audit log names them, and what they may. */
export type Caller = { actor: string; role: Role }

/**
 * Operators authenticate by a certificate that the registry knows as an operator's; a device's is not enough.
 *
 * @throws FleetError `certificate_missing` and the other faults of a certificate, `forbidden`, `operator_disabled`
 */
export async function authenticate(registry: Registry, socket: TLSSocket, now: Date): Promise<Caller> {
  const { record, certificate } = await readCertificateEvidence(
    registry,
    {
      certificate: socket.getPeerX509Certificate()?.raw,
      certificateFault: socket.authorized ? undefined : String(socket.authorizationError),
    },
    now,
  )
  const context = { serial: record.doc.serial }
  const name = valuesOf(certificate.subject, 'CN')[0] ?? ''
  const operator = record.doc.kind === 'operator' ? await findOperator(registry, name) : undefined
  if (operator === undefined) throw new FleetError('forbidden', "the certificate is not an operator's", { context })
  const { role, status } = operator.doc
  if (status !== 'active') throw new FleetError('operator_disabled', `the operator ${name} is ${status}`, { context })
  return { actor: `operator:${name}`, role }
}

/** @throws FleetError `role_insufficient` */
export function requireRole({ actor, role }: Caller, wanted: Role): void {
  if (includesRole(role, wanted)) return
  throw new FleetError('role_insufficient', `this takes the role ${wanted}; ${actor} has ${role}`)
}
