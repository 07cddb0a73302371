import type { SerialNumber } from '../../contract/ids.ts'
import type { CertificateFacts } from '../../pki/certificate.ts'
import type { StatusPointers } from '../../pki/status-pointers.ts'
import type { CertificateRecord } from '../registry/certificates.ts'

/** A CA in paths and records: short, for it stands in every certificate. */
export const authorityName = (certificate: CertificateFacts): string => certificate.subjectKeyId!.slice(0, 8)

/** Where the lists of one CA are, and which of them a new certificate names. */
export class DistributionPoints {
  /** of the CA */
  readonly name: string
  readonly shards: number
  readonly #url: string
  readonly #hasResponder: boolean

  /** @param url without a slash at its end */
  constructor(authority: CertificateFacts, input: { url: string; shards: number; hasResponder: boolean }) {
    this.name = authorityName(authority)
    this.shards = input.shards
    this.#url = input.url
    this.#hasResponder = input.hasResponder
  }

  /** Serial numbers are random, so the lists grow alike. */
  assign(serial: SerialNumber): { distributionPoint: string; pointers: StatusPointers } {
    const shard = Number.parseInt(serial.slice(-4), 16) % this.shards
    return { distributionPoint: `${this.name}/${shard}`, pointers: this.#pointers(`${shard}.crl`) }
  }

  /** For a certificate of a CA, which is on the list of all. */
  get pointersToAll(): StatusPointers {
    return this.#pointers('all.crl')
  }

  #pointers(file: string): StatusPointers {
    return {
      crl: this.urlOf(file),
      ...(this.#hasResponder ? { ocsp: `${this.#url}/ocsp` } : {}),
      caIssuers: this.urlOf('ca.cer'),
    }
  }

  urlOf(file: string): string {
    return `${this.#url}/${this.name}/${file}`
  }

  /** @returns the number of the list that a certificate of this CA names; undefined when it names none */
  shardOf(distributionPoint: string | undefined): number | undefined {
    const [name, shard] = distributionPoint?.split('/') ?? []
    return name === this.name ? Number(shard) : undefined
  }

  /** Whether this CA has issued it. What names no CA is older than these names, and of the only CA there was. */
  isOf({ kind, distributionPoint }: Pick<CertificateRecord, 'kind' | 'distributionPoint'>): boolean {
    return kind !== 'foreign' && (distributionPoint === undefined || distributionPoint.startsWith(`${this.name}/`))
  }
}

/** The root issues to CAs alone: one list does, and no responder, since that would need its key. */
export const pointsOfRoot = (root: CertificateFacts, url: string): DistributionPoints =>
  new DistributionPoints(root, { url, shards: 1, hasResponder: false })
