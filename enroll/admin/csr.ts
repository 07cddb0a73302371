import type { ProblemCode } from '../../contract/problems.ts'
import { parsePem } from '../../pki/certificate.ts'
import { FleetError } from '../../runtime/errors.ts'

/** What a request for a certificate may be refused with. */
export const csrProblems = [
  'csr_malformed',
  'csr_signature_invalid',
  'csr_key_unsupported',
  'csr_key_too_weak',
  'key_compromised',
] as const satisfies ProblemCode[]

/** @throws FleetError `csr_malformed` */
export function requestIn(pem: string): Buffer {
  const [der, ...more] = parsePem(pem, 'CERTIFICATE REQUEST')
  if (der !== undefined && more.length === 0) return der
  throw new FleetError('csr_malformed', 'csr is one certificate request in PEM')
}
