/** CAs of others that the configuration trusts, and their revocation lists, as they are in their files now. */
import { readFileSync, statSync } from 'node:fs'
import type { Configuration } from '../contract/configuration.ts'
import { type CertificateFacts, parseCertificate, parsePem, toPem } from '../pki/certificate.ts'
import { formatName } from '../pki/names.ts'
import { describeRevocationList, maxListBytes } from '../pki/revocation-list.ts'
import { FleetError, isFleetError, systemFault } from '../runtime/errors.ts'
import { readCertificates } from './certificate-file.ts'

export type ShownAuthority = {
  name: string
  /** What the gateway takes its word for. */
  use: string
  subject: string
  serial: string
  fingerprint: string
  notBefore: string
  notAfter: string
  file?: string
  crl?: { file: string; thisUpdate?: string; nextUpdate?: string; fault?: string }
  pem: string
}

/** @throws FleetError `config_invalid` for a file that is not one of certificates */
export function readTrusted({ labels, broker }: Configuration): ShownAuthority[] {
  return [
    ...Object.entries(labels).flatMap(([label, { factory, claim }]) =>
      Object.entries({ factory: factory?.authorities, claim: claim?.authorities }).flatMap(([kind, file]) =>
        file === undefined ? [] : rows(`${label}/${kind}`, `${kind} certificates, label ${label}`, file),
      ),
    ),
    ...broker.trust.flatMap(({ label, file, crl }) => rows(label, 'devices, at listeners that trust it', file, crl)),
  ]
}

function rows(name: string, use: string, file: string, crl?: string): ShownAuthority[] {
  const updates = crl === undefined ? undefined : readUpdates(crl)
  return readCertificates(file).map((der) => {
    const facts = parseCertificate(der)
    const list = crl === undefined ? {} : { crl: { file: crl, ...updatesOf(facts, updates!) } }
    return { name, use, ...describeAuthority(facts), file, ...list, pem: toPem(der) }
  })
}

const describeAuthority = ({ subject, serial, fingerprint, notBefore, notAfter }: CertificateFacts) => ({
  ...{ subject: formatName(subject), serial, fingerprint },
  ...{ notBefore: notBefore.toISOString(), notAfter: notAfter.toISOString() },
})

type Updates = { issuer: string; thisUpdate: Date; nextUpdate: Date }[] | string

/** @returns a sentence where the lists cannot be read: the CA is trusted all the same */
function readUpdates(file: string): Updates {
  try {
    if (statSync(file).size > maxListBytes * 2) return 'it is larger than any list'
    const octets = readFileSync(file)
    const lists = octets[0] === 0x30 ? [octets] : parsePem(octets.toString('latin1'), 'X509 CRL')
    return lists.map((der) => describeRevocationList(der))
  } catch (error) {
    return isFleetError(error) ? error.message : systemFault(error)
  }
}

function updatesOf({ subject }: CertificateFacts, updates: Updates): Omit<NonNullable<ShownAuthority['crl']>, 'file'> {
  if (typeof updates === 'string') return { fault: updates }
  const own = updates.filter(({ issuer }) => issuer === formatName(subject))
  const newest = own.toSorted((one, other) => other.thisUpdate.getTime() - one.thisUpdate.getTime())[0]
  if (newest === undefined) return { fault: 'it has no list of this CA' }
  return { thisUpdate: newest.thisUpdate.toISOString(), nextUpdate: newest.nextUpdate.toISOString() }
}

/** @throws FleetError `not_found` */
export function authoritiesNamed(all: readonly ShownAuthority[], name: string): ShownAuthority[] {
  const found = all.filter((one) => one.name === name)
  if (found.length > 0) return found
  const known = [...new Set(all.map((one) => one.name))].join(', ')
  throw new FleetError('not_found', `there is no CA ${name}; known: ${known}`, { context: { refused: true } })
}
