import { readFileSync } from 'node:fs'
import { parsePem } from '../pki/certificate.ts'
import { FleetError, systemFault } from '../runtime/errors.ts'

const maxBytes = 1024 * 1024
const advice = 'name a file with one or more in PEM, or with one in DER'

/**
 * The DER of each certificate in a file of PEM, or of the one that the file is.
 *
 * @throws FleetError `config_invalid` where there is nothing to read, or no certificate in it
 */
export function readCertificates(path: string): [Buffer, ...Buffer[]] {
  let octets: Buffer
  try {
    octets = readFileSync(path)
    if (octets.length > maxBytes) throw new Error(`it has more than ${maxBytes} bytes`)
  } catch (cause) {
    const sentence = `${path} cannot be read: ${systemFault(cause)}; ${advice}`
    throw new FleetError('config_invalid', sentence, { cause })
  }
  const [first, ...others] = octets.includes('-----BEGIN ')
    ? parsePem(octets.toString('latin1'), 'CERTIFICATE')
    : [octets]
  // DER begins as a SEQUENCE (X.690 8.9).
  if (first?.[0] !== 0x30) throw new FleetError('config_invalid', `there is no certificate in ${path}; ${advice}`)
  return [first, ...others]
}
