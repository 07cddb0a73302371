import { randomBytes } from 'node:crypto'
import { isIP } from 'node:net'
import { issue, newSerialNumber, prepare } from '../../pki/certificate.ts'
import { buildName, formatName, parseName } from '../../pki/names.ts'
import type { CertificateProfile } from '../../pki/profile.ts'
import { spkiHashOf } from '../../pki/public-key.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { Asked } from '../registry/asked.ts'
import type { AuditFact } from '../registry/audit-log.ts'
import type { CertificateRecord, OwnKind } from '../registry/certificates.ts'
import type { Registry } from '../registry/registry.ts'
import { findWatchedKey } from '../registry/watched-keys.ts'
import type { Authority } from './hierarchy.ts'

export type OwnCertificate = { record: CertificateRecord; der: Buffer; pem: string }

/** Signs a certificate of the gateway itself or of who runs it. It counts once its record is written. */
export async function signOwn(
  issuing: Authority,
  wanted: {
    kind: OwnKind
    profile: CertificateProfile
    commonName: string
    /** DNS names and IP addresses. */
    names: readonly string[]
    publicKeySpki: Buffer
    via: string
  },
  now: Date,
): Promise<OwnCertificate> {
  const { kind, profile, commonName, names, publicKeySpki, via } = wanted
  const ips = names.filter((name) => isIP(name))
  const dns = names.filter((name) => !isIP(name))
  const subject = buildName({ commonName })
  const { der, pem, serial, fingerprint, notBefore, notAfter } = await issue(
    prepare({
      profile,
      issuer: issuing,
      serial: newSerialNumber(randomBytes),
      subject,
      subjectAltName: names.length > 0 ? { dns, ips } : {},
      publicKeySpki,
      notBefore: now,
      notAfter: new Date(now.getTime() + profile.validityMs),
    }),
  )
  const at = now.toISOString()
  const record: CertificateRecord = {
    ...{ serial, kind, profile: profile.name, status: 'issued', spkiHash: spkiHashOf(publicKeySpki), reservedAt: at },
    ...{ fingerprint, der: der.toString('base64'), subject: formatName(parseName(subject)) },
    ...{ notBefore: notBefore.toISOString(), notAfter: notAfter.toISOString(), issuedAt: at, via },
  }
  return { record, der, pem }
}

type ByWhom = Pick<AuditFact, 'actor' | 'requestId' | 'remoteAddress'>
export const byWhom = ({ actor, requestId, remoteAddress }: Asked): ByWhom => ({ actor, requestId, remoteAddress })

export const issuedFact = (
  { serial, kind, notAfter }: CertificateRecord,
  asked: ByWhom,
  about: AuditFact['details'],
): AuditFact => ({
  action: 'certificate.issued',
  subject: `certificate:${serial}`,
  outcome: 'done',
  details: { kind, ...about, notAfter: notAfter! },
  ...asked,
})

/** @throws FleetError `key_compromised` */
export async function requireUnwatched(registry: Registry, spkiHash: string): Promise<void> {
  if ((await findWatchedKey(registry, spkiHash)) === undefined) return
  throw new FleetError('key_compromised', 'the key of this request was reported as compromised; make a new one')
}
