import { hash } from 'node:crypto'
import { type CertificateFacts, parseCertificate } from '../pki/certificate.ts'

/** Of a fleet that comes back; with 3 KiB each they take 12 MiB. */
const keptAtMost = 4_096
/** Larger ones are read each time: what peers make us keep has a bound. */
const keptBytesAtMost = 2_048

/** What certificates of the fleet say, by their fingerprints; those used last come last. It says nothing about their standing. */
export class CertificateReader {
  readonly #kept = new Map<string, CertificateFacts>()
  readonly #isOfFleet: (fingerprint: string) => boolean
  /** Of the certificate that was read last: most have the same, and keep one object. */
  #issuer: CertificateFacts['issuer'] | undefined

  /** @param isOfFleet whether it is good in the registry: nobody else has a place here */
  constructor(isOfFleet: (fingerprint: string) => boolean) {
    this.#isOfFleet = isOfFleet
  }

  /**
   * Reads a certificate, or recalls what the same octets said when they were read before.
   *
   * @throws FleetError `request_malformed`
   */
  read(der: Buffer): CertificateFacts {
    const fingerprint = hash('sha256', der)
    if (der.length > keptBytesAtMost || !this.#isOfFleet(fingerprint)) return parseCertificate(der)
    const certificate = this.#kept.get(fingerprint) ?? this.#parse(der)
    this.#kept.delete(fingerprint)
    this.#kept.set(fingerprint, certificate)
    if (this.#kept.size > keptAtMost) this.#kept.delete(this.#kept.keys().next().value!)
    return certificate
  }

  #parse(der: Buffer): CertificateFacts {
    const certificate = parseCertificate(der)
    if (this.#issuer?.der.equals(certificate.issuer.der)) certificate.issuer = this.#issuer
    this.#issuer = certificate.issuer
    return certificate
  }

  /** They may not be of the fleet any more. */
  forget(fingerprints: Iterable<string>): void {
    for (const fingerprint of fingerprints) this.#kept.delete(fingerprint)
  }
}
