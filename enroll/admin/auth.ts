import type { TLSSocket } from 'node:tls'
import { valuesOf } from '../../pki/names.ts'
import { FleetError } from '../../runtime/errors.ts'
import { readCertificateEvidence } from '../ra/current-certificate.ts'
import type { Registry } from '../registry/registry.ts'

/**
 * Operators authenticate by a certificate that the registry knows as an operator's; a device's is not enough.
 *
 * @returns the actor for the audit log
 * @throws FleetError `certificate_missing` and the other faults of a certificate, `forbidden`
 */
export async function requireOperator(registry: Registry, socket: TLSSocket, now: Date): Promise<string> {
  const { record, certificate } = await readCertificateEvidence(
    registry,
    {
      certificate: socket.getPeerX509Certificate()?.raw,
      certificateFault: socket.authorized ? undefined : String(socket.authorizationError),
    },
    now,
  )
  if (record.doc.kind !== 'operator') {
    throw new FleetError('forbidden', "the certificate is not an operator's", {
      context: { serial: record.doc.serial },
    })
  }
  return `operator:${valuesOf(certificate.subject, 'CN')[0]}`
}
