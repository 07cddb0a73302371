import { parsePem } from '../../pki/certificate.ts'
import { FleetError } from '../../runtime/errors.ts'

/** @throws FleetError `csr_malformed` */
export function requestIn(pem: string): Buffer {
  const [der, ...more] = parsePem(pem, 'CERTIFICATE REQUEST')
  if (der !== undefined && more.length === 0) return der
  throw new FleetError('csr_malformed', 'csr is one certificate request in PEM')
}
