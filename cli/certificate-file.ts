import { readFileSync } from 'node:fs'
import { parsePem } from '../pki/certificate.ts'
import { FleetError } from '../runtime/errors.ts'

const maxBytes = 1024 * 1024

/**
 * The DER of each certificate in a file of PEM, or of the one that the file is.
 *
 * @throws FleetError `config_invalid` where there is nothing to read, `request_malformed` where there is no certificate in it
 */
export function readCertificates(path: string): [Buffer, ...Buffer[]] {
  let octets: Buffer
  try {
    octets = readFileSync(path)
    if (octets.length > maxBytes) throw new Error(`it has more than ${maxBytes} bytes`)
  } catch (cause) {
    const sentence = `${path} cannot be read: ${(cause as Error).message}`
    throw new FleetError('config_invalid', sentence, { cause })
  }
  const [first, ...others] = octets.includes('-----BEGIN ')
    ? parsePem(octets.toString('latin1'), 'CERTIFICATE')
    : [octets]
  if (first === undefined) throw new FleetError('request_malformed', `there is no certificate in ${path}`)
  return [first, ...others]
}
