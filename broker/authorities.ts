import { type KeyObject, X509Certificate } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { type AuthorityConfiguration, ownAuthority } from '../contract/listeners.ts'
import { type CertificateFacts, parseCertificate, parsePem, toPem } from '../pki/certificate.ts'
import type { DistinguishedName } from '../pki/names.ts'
import { type RevocationList, readRevocationList } from '../pki/revocation-list.ts'
import { FleetError, isFleetError } from '../runtime/errors.ts'
import type { Authority, Issuer, ListedStatus } from './verification.ts'

/** What a listener asks of the CAs that it trusts. */
export type Trust = {
  /** PEM of every CA that a chain may be built from. */
  anchors: readonly string[]
  findIssuer(leaf: X509Certificate, isChainAccepted: boolean): Issuer
}
type Member = {
  authority: Authority
  certificates: X509Certificate[]
  /** Keys of their subjects. */
  names: ReadonlySet<string>
  pems: readonly string[]
}

/** The CAs whose certificates devices may have: our own, and those that the configuration names. */
export class Authorities {
  readonly #own: Member = {
    authority: { label: ownAuthority, naming: undefined, statusOf: undefined },
    certificates: [],
    names: new Set(),
    pems: [],
  }
  readonly #others: (Member & { lists: RevocationLists | undefined })[]

  /** @throws FleetError `config_invalid` for a file that is no list of CA certificates, and a CA under two labels */
  constructor(rows: readonly AuthorityConfiguration[]) {
    const files = rows.map((row) => ({ row, all: readCertificates(row) }))
    const shared = sharedRoots(files)
    this.#others = files.map(({ row, all }) => {
      // A root that several labels have is there to build chains from; for what it issues itself no label would speak.
      const certificates = all.filter((one) => !shared.has(identityOf(one)))
      const lists = row.crl === undefined ? undefined : new RevocationLists(row.crl, all)
      const authority = { label: row.label, naming: row, statusOf: lists?.statusOf.bind(lists) }
      const pems = all.map(({ raw }) => toPem(raw))
      return { authority, certificates, names: namesOf(certificates), pems, lists }
    })
  }

  /** @throws FleetError `config_invalid` where a label has the CA of this gateway, whose certificates would be judged by two rules */
  requireOthers(): void {
    const own = new Set(this.#own.certificates.map(identityOf))
    for (const { authority, certificates } of this.#others) {
      if (!certificates.some((one) => own.has(identityOf(one)))) continue
      const sentence = `broker.trust ${authority.label} holds the CA of this gateway, whose label is ${ownAuthority}`
      throw new FleetError('config_invalid', `${sentence}; take it out`)
    }
  }

  /** The CA of this gateway, which the feed tells of. */
  setOwn(anchors: readonly string[]): void {
    this.#own.certificates = anchors.map((pem) => new X509Certificate(pem))
    this.#own.pems = anchors
    this.#own.names = namesOf(this.#own.certificates)
  }

  /** The label of its CA, by the name of its issuer; for a certificate whose signature was checked before. */
  findLabel(certificate: CertificateFacts): string | undefined {
    return this.#of(certificate)[0]?.authority.label
  }

  /** Whether a revocation list has it; for a certificate whose signature was checked before. */
  isListed(certificate: CertificateFacts, now: Date): boolean {
    return this.#of(certificate).some(({ authority }) => authority.statusOf?.(certificate, now).status === 'revoked')
  }

  #of({ issuer }: CertificateFacts): Member[] {
    const name = nameKey(issuer)
    return [this.#own, ...this.#others].filter(({ names }) => names.has(name))
  }

  /** @param labels those of a listener; they are known */
  trustOf(labels: readonly string[]): Trust {
    const members = [this.#own, ...this.#others].filter(({ authority }) => labels.includes(authority.label))
    const isOwnAlone = members.length === 1 && members[0] === this.#own
    const issuers = new Issuers(members)
    return {
      anchors: members.flatMap(({ pems }) => pems),
      findIssuer: (leaf, isChainAccepted) =>
        // The registry lists each certificate of our own, so that a chain to us is enough.
        isOwnAlone && isChainAccepted ? { kind: 'trusted', authority: this.#own.authority } : issuers.find(leaf),
    }
  }

  /**
   * Reads revocation lists whose files have changed; one that cannot be used leaves the one before in force.
   *
   * @returns the labels of what was read, with the fault of what was not
   */
  refresh(): { label: string; error?: FleetError }[] {
    return this.#others.flatMap(({ authority: { label }, lists }) => {
      try {
        return lists?.refresh() ? [{ label }] : []
      } catch (error) {
        if (!isFleetError(error)) throw error
        return [{ label, error }]
      }
    })
  }
}

/** Of devices that come again. */
const knownAtMost = 4_096

/**
 * Who issued a leaf, by its direct issuer's signature: which of several CAs a chain led to is not to be had from Node, and the
 * answer for a resumed session would be that of another day.
 */
class Issuers {
  readonly #members: readonly Member[]
  /** Of leaves whose signature was verified, by all of their octets; those used last come last. */
  readonly #known = new Map<string, Issuer>()

  constructor(members: readonly Member[]) {
    this.#members = members
  }

  find(leaf: X509Certificate): Issuer {
    const { fingerprint256 } = leaf
    const issuer = this.#known.get(fingerprint256) ?? this.#verify(leaf)
    if (issuer.kind !== 'trusted') return issuer
    this.#known.delete(fingerprint256)
    this.#known.set(fingerprint256, issuer)
    if (this.#known.size > knownAtMost) this.#known.delete(this.#known.keys().next().value!)
    return issuer
  }

  #verify(leaf: X509Certificate): Issuer {
    let kind: 'forged' | 'unknown' = 'unknown'
    for (const { authority, certificates } of this.#members) {
      for (const certificate of certificates) {
        if (!leaf.checkIssued(certificate)) continue
        if (leaf.verify(certificate.publicKey)) return { kind: 'trusted', authority }
        kind = 'forged'
      }
    }
    return { kind }
  }
}

function readCertificates({ label, file }: AuthorityConfiguration): X509Certificate[] {
  const unusable = (why: string, cause?: unknown): FleetError =>
    new FleetError('config_invalid', `broker.trust ${label}: ${file} ${why}`, { cause })
  let certificates: X509Certificate[]
  try {
    certificates = parsePem(readFileSync(file, 'utf8'), 'CERTIFICATE').map((der) => new X509Certificate(der))
  } catch (cause) {
    throw unusable(`cannot be read: ${(cause as Error).message}`, cause)
  }
  if (certificates.length === 0) throw unusable('holds no certificate in PEM')
  const other = certificates.find(({ ca }) => !ca)
  if (other !== undefined) throw unusable(`holds a certificate that is not of a CA: serial ${other.serialNumber}`)
  return certificates
}

/** Of the CA, whichever of its certificates this is: what it has signed is verified by any of them. */
function identityOf({ raw }: X509Certificate): string {
  const { subject, spkiHash } = parseCertificate(raw)
  return `${nameKey(subject)} ${spkiHash}`
}

/**
 * Roots that several labels have in common, each with CAs of its own below it.
 *
 * @throws FleetError `config_invalid` for any other CA under two labels: by whose rules would its certificates be judged?
 */
function sharedRoots(files: readonly { row: AuthorityConfiguration; all: X509Certificate[] }[]): Set<string> {
  const labels = new Map<string, Set<string>>()
  for (const { row, all } of files) {
    for (const one of all) labels.set(identityOf(one), (labels.get(identityOf(one)) ?? new Set()).add(row.label))
  }
  const isShared = (one: X509Certificate): boolean => labels.get(identityOf(one))!.size > 1
  for (const { all } of files) {
    const hasOwn = all.some((one) => !isShared(one))
    const doubtful = all.find((one) => isShared(one) && !(hasOwn && one.checkIssued(one)))
    if (doubtful === undefined) continue
    const [one, other] = labels.get(identityOf(doubtful))!
    const name = doubtful.subject.replaceAll('\n', ', ')
    throw new FleetError(
      'config_invalid',
      `broker.trust: ${name} stands under ${one} and ${other}; leave it to one of them`,
    )
  }
  return new Set([...labels].filter(([, { size }]) => size > 1).map(([identity]) => identity))
}

const namesOf = (certificates: readonly X509Certificate[]): Set<string> =>
  new Set(certificates.map(({ raw }) => nameKey(parseCertificate(raw).subject)))

const nameKey = ({ der }: DistinguishedName): string => der.toString('hex')

/** The revocation lists in one file, by issuer. */
class RevocationLists {
  readonly #file: string
  readonly #keys: KeyObject[]
  #stamp: string | undefined
  #lists = new Map<string, RevocationList>()

  constructor(file: string, authorities: readonly X509Certificate[]) {
    this.#file = file
    this.#keys = authorities.map(({ publicKey }) => publicKey)
  }

  /** @returns whether there was something to read. @throws FleetError `data_damaged` */
  refresh(): boolean {
    const stat = statSync(this.#file, { throwIfNoEntry: false })
    const stamp = stat && `${stat.mtimeMs} ${stat.size} ${stat.ino}`
    if (stamp === this.#stamp) return false
    this.#stamp = stamp
    if (stamp === undefined) throw new FleetError('data_damaged', `${this.#file} is missing`)
    const bytes = readFileSync(this.#file)
    const found = bytes[0] === 0x30 ? [bytes] : parsePem(bytes.toString('latin1'), 'X509 CRL')
    if (found.length === 0) throw new FleetError('data_damaged', `${this.#file} holds no revocation list`)
    const lists = new Map<string, RevocationList>()
    for (const list of found.map((der) => readRevocationList(der, this.#keys))) {
      const key = nameKey(list.issuer)
      const before = lists.get(key)
      if (before === undefined || before.thisUpdate < list.thisUpdate) lists.set(key, list)
    }
    this.#lists = lists
    return true
  }

  statusOf(certificate: CertificateFacts, now: Date): ListedStatus {
    const list = this.#lists.get(nameKey(certificate.issuer))
    if (list === undefined) return { status: 'stale', since: undefined }
    const reason = list.revoked.get(certificate.serial)
    // Who is on an old list stays revoked.
    if (reason !== undefined) return { status: 'revoked', reason }
    return now > list.nextUpdate
      ? { status: 'stale', since: list.nextUpdate }
      : { status: 'good', until: list.nextUpdate }
  }
}
