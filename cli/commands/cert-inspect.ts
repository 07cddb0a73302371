import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { Command } from 'commander'
import type { CertificateView } from '../../contract/admin-api.ts'
import { type CertificateFacts, parseCertificate, parsePem } from '../../pki/certificate.ts'
import { formatName } from '../../pki/names.ts'
import { readEndpoints } from '../../runtime/endpoints.ts'
import { isFleetError } from '../../runtime/errors.ts'
import { openAdminClient } from '../admin-client.ts'
import { readCertificates } from '../certificate-file.ts'
import type { Io } from '../io.ts'
import { fields } from '../output.ts'
import { type Common, examples, print, withCommon } from './shared.ts'

const dayMs = 86_400_000

type Inspection = {
  subject: string
  names: string[]
  issuer: string
  serial: string
  fingerprint: string
  key: string
  isCa: boolean
  keyUsage: string[]
  extendedKeyUsage: string[]
  notBefore: string
  notAfter: string
  validity: string
  chain: string
  /** What the registry knows of it; `unasked` says why it was not asked. */
  record?: CertificateView
  unasked?: string
}

export function addCertInspect(cert: Command, io: Io): void {
  examples(withCommon(cert.command('inspect')), 'cert inspect cam-1.crt', 'cert inspect cam-1.crt -o json')
    .description(
      'say what a certificate in a file is, and which of those of this gateway; works with the gateway stopped too',
    )
    .argument('<file>', 'PEM or DER; certificates behind the first are taken for its chain')
    .action(async (file: string, options: Common) => {
      const [first, ...others] = readCertificates(file)
      const [leaf, chain] = [parseCertificate(first), others.map(parseCertificate)]
      const known = await recordOf(leaf.fingerprint, options.data)
      const answer = { ...describe(leaf, new Date()), chain: chainOf(leaf, chain, options.data), ...known }
      print(io, options, answer, (shown) => render(shown, io.colour))
    })
}

function describe(facts: CertificateFacts, now: Date): Omit<Inspection, 'chain'> {
  const { uris, dns, ips } = facts.subjectAltName
  return {
    subject: formatName(facts.subject),
    names: [...uris.map((uri) => `URI ${uri}`), ...dns.map((name) => `DNS ${name}`), ...ips.map((ip) => `IP ${ip}`)],
    issuer: formatName(facts.issuer),
    serial: facts.serial,
    fingerprint: facts.fingerprint,
    key: keyOf(facts),
    isCa: facts.isCa,
    keyUsage: facts.keyUsage,
    extendedKeyUsage: facts.extendedKeyUsage,
    notBefore: facts.notBefore.toISOString(),
    notAfter: facts.notAfter.toISOString(),
    validity: validityOf(facts, now),
  }
}

/** Also of keys that are not certified here. */
function keyOf({ der }: CertificateFacts): string {
  const { asymmetricKeyType: type = 'unknown', asymmetricKeyDetails: details } = new X509Certificate(der).publicKey
  const { namedCurve, modulusLength } = details ?? {}
  if (modulusLength !== undefined) return `${type.toUpperCase()}, ${modulusLength} bits`
  return namedCurve === undefined ? type : (curves[namedCurve] ?? namedCurve)
}
// As NIST calls what OpenSSL has other names for.
const curves: Record<string, string> = { prime256v1: 'P-256', secp384r1: 'P-384', secp521r1: 'P-521' }

function validityOf({ notBefore, notAfter }: CertificateFacts, now: Date): string {
  const days = (from: Date, to: Date): string => {
    const count = Math.floor((to.getTime() - from.getTime()) / dayMs)
    return count === 0 ? 'less than a day' : count === 1 ? 'a day' : `${count} days`
  }
  if (now < notBefore) return `not valid yet, in ${days(now, notBefore)}`
  return now > notAfter
    ? `expired ${days(notAfter, now)} ago`
    : `${days(now, notAfter)} left of ${days(notBefore, notAfter)}`
}

/** Goes up by signatures, through what is in the file and what this machine has of the gateway. */
function chainOf(leaf: CertificateFacts, given: CertificateFacts[], dataDir: string): string {
  const ours = ownAuthorities(dataDir)
  const root = ours[0]
  const candidates = [...given, ...ours]
  const names = [formatName(leaf.subject)]
  for (let at = leaf; names.length <= candidates.length + 1; ) {
    if (root !== undefined && at.fingerprint === root.fingerprint)
      return `${names.join(' < ')}, the root of this gateway`
    const above = candidates.find((issuer) => isIssuedBy(at, issuer))
    if (isIssuedBy(at, at)) return `${names.join(' < ')}, which signs itself and is not the root of this gateway`
    if (above === undefined) return `${names.join(' < ')} < ${formatName(at.issuer)}, which is not at hand`
    names.push(formatName(above.subject))
    at = above
  }
  return `${names.join(' < ')}: goes round in a circle`
}

function isIssuedBy(one: CertificateFacts, issuer: CertificateFacts): boolean {
  const above = new X509Certificate(issuer.der)
  const below = new X509Certificate(one.der)
  return below.checkIssued(above) && below.verify(above.publicKey)
}

/** The root first, then the CA that stands behind the operator's own certificate. Empty where no gateway is known. */
function ownAuthorities(dataDir: string): CertificateFacts[] {
  try {
    const { rootCertificate, operatorCertificate } = readEndpoints(dataDir)
    const files = [rootCertificate, ...(operatorCertificate === undefined ? [] : [operatorCertificate])]
    return files
      .flatMap((path) => parsePem(readFileSync(path, 'utf8'), 'CERTIFICATE'))
      .map(parseCertificate)
      .filter(({ isCa }) => isCa)
  } catch (error) {
    if (isFleetError(error, 'unavailable')) return []
    throw error
  }
}

async function recordOf(fingerprint: string, dataDir: string): Promise<Pick<Inspection, 'record' | 'unasked'>> {
  try {
    using client = openAdminClient(dataDir)
    const [record] = await client.listCertificates({ fingerprint })
    return record === undefined ? {} : { record }
  } catch (error) {
    if (isFleetError(error, 'unavailable')) return { unasked: error.message }
    throw error
  }
}

function render({ record, unasked, ...shown }: Inspection, colour: boolean): string {
  const known =
    record === undefined
      ? (unasked ?? 'none of those that this gateway knows')
      : [record.kind, record.deviceId, `profile ${record.profile}`, record.status, record.revocationReason]
          .filter(Boolean)
          .join(', ')
  return fields(
    [
      ['subject', shown.subject],
      ['names', shown.names.join(', ')],
      ['issuer', shown.issuer],
      ['serial', shown.serial],
      ['SHA-256', shown.fingerprint],
      ['key', shown.key],
      ['is for', shown.isCa ? 'a certificate authority' : shown.extendedKeyUsage.join(', ') || 'any use'],
      ['key usage', shown.keyUsage.join(', ')],
      ['valid', `${shown.notBefore} to ${shown.notAfter}: ${shown.validity}`],
      ['chain', shown.chain],
      ['in the registry', known],
    ],
    colour,
  )
}
