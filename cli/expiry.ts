/** What every command says of the certificate that it shows, before that ends. */
import { readFileSync } from 'node:fs'
import { parseCertificate, parsePem } from '../pki/certificate.ts'
import { commandLine, readEndpoints } from '../runtime/endpoints.ts'
import { isOfGateway } from './access-folder.ts'

const dayMs = 86_400_000
const warnedMs = 30 * dayMs

/** @returns undefined where it has longer than 30 days, or cannot be read: then whoever needs it says so */
export function expiryWarning(dataDir: string, now: Date): string | undefined {
  let notAfter: Date
  try {
    const { operatorCertificate } = readEndpoints(dataDir)
    if (operatorCertificate === undefined) return undefined
    const [der] = parsePem(readFileSync(operatorCertificate, 'utf8'), 'CERTIFICATE')
    notAfter = parseCertificate(der!).notAfter
  } catch {
    return undefined
  }
  const leftMs = notAfter.getTime() - now.getTime()
  if (leftMs >= warnedMs || leftMs <= 0) return undefined
  const advice = isOfGateway(dataDir)
    ? `enroll ought to have renewed it: ${commandLine(['doctor'], dataDir)}`
    : `another one: ${commandLine(['operator', 'renew'], dataDir)}`
  return `warning: the certificate of this operator ends in ${Math.floor(leftMs / dayMs)} days; ${advice}\n`
}
