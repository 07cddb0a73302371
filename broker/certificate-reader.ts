import { hash } from 'node:crypto'
import { type CertificateFacts, parseCertificate } from '../pki/certificate.ts'

/** Of a fleet that comes back; with 3 KiB each they take 12 MiB. */
const keptAtMost = 4_096
/** Larger ones are read each time: what peers make us keep has a bound. */
const keptBytesAtMost = 2_048

/** What certificates say, by the digest of their octets; those used last come last. It says nothing about their standing. */
const kept = new Map<string, CertificateFacts>()

/**
 * Reads a certificate, or recalls what the same octets said when they were read before.
 *
 * @param isToBeKept its chain leads to a CA that we trust: nobody else has a place here
 * @throws FleetError `request_malformed`
 */
export function readCertificate(der: Buffer, { isToBeKept }: { isToBeKept: boolean }): CertificateFacts {
  if (!isToBeKept || der.length > keptBytesAtMost) return parseCertificate(der)
  const digest = hash('sha256', der)
  const certificate = kept.get(digest) ?? parseCertificate(der)
  kept.delete(digest)
  kept.set(digest, certificate)
  if (kept.size > keptAtMost) kept.delete(kept.keys().next().value!)
  return certificate
}
