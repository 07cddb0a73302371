import { createHash } from 'node:crypto'
import { type AuditLine, checkpointBody, checkpointKind, sealBody, sealKind } from '../contract/audit-api.ts'
import { type CertificateFacts, parsePem } from '../pki/certificate.ts'
import { isIssuedBy, parseAuthority } from '../pki/issued-by.ts'
import { requireSigned, type Statement } from '../pki/statement.ts'
import { chainHash } from '../runtime/chain.ts'
import { FleetError } from '../runtime/errors.ts'

type Place = { seq: number; hash: string }
type Line<K extends AuditLine['kind']> = Extract<AuditLine, { kind: K }>
/** What holds. `startsAt` is the checkpoint that it begins with, where entries before it are gone. */
export type AuditFindings = {
  entries: number
  first: number | undefined
  last: number | undefined
  checkpoints: number
  startsAt: number | undefined
  sealedAt: string | undefined
  rootFingerprint: string
  end: Place
}

/**
 * Follows an export line by line, and trusts nothing of it but what the root vouches for.
 *
 * Everything but the constructor throws FleetError `audit_broken`, which says in a sentence what is wrong and where.
 */
export class AuditVerification {
  readonly #pinnedRoot: string | undefined
  readonly #continues: Place | undefined
  #authorities: CertificateFacts[] = []
  #root = ''
  #from: Place | undefined
  #cursor: Place = { seq: 0, hash: '' }
  #previous: { number: number; digest: string } | undefined
  #firstCheckpoint: number | undefined
  #checkpoints = 0
  #startsAt: number | undefined
  #sealedAt: string | undefined
  #metEarlier = false

  /**
   * @param root      SHA-256 of the certificate that vouches; without it any root that the export names
   * @param continues the end of an earlier export that this one has to have, as it was
   */
  constructor({ root, continues }: { root?: string | undefined; continues?: Place | undefined }) {
    this.#pinnedRoot = root
    this.#continues = continues
  }

  get entries(): number {
    return this.#cursor.seq - (this.#from?.seq ?? 0)
  }

  take(line: AuditLine): void {
    if (this.#sealedAt !== undefined) throw broken('something stands behind the seal, which is the end')
    if (this.#from === undefined && line.kind !== 'log')
      throw broken('its beginning, which says where it starts, is missing')
    if (line.kind === 'log') this.#takeLog(line)
    else if (line.kind === 'entry') this.#takeEntry(line)
    else if (line.kind === 'checkpoint') this.#takeCheckpoint(line)
    else this.#takeSeal(line)
  }

  /** At the end of what there is. */
  finish(): AuditFindings {
    const { seq } = this.#cursor
    if (this.#sealedAt === undefined) {
      throw broken(`the end is missing: there is no seal behind entry ${seq}, so entries after it were cut off`)
    }
    const earlier = this.#continues
    if (earlier !== undefined && !this.#metEarlier) {
      throw broken(`entry ${earlier.seq}, which the earlier export ends with, is not in it`)
    }
    const isEmpty = this.entries === 0
    return {
      entries: this.entries,
      first: isEmpty ? undefined : this.#from!.seq + 1,
      last: isEmpty ? undefined : seq,
      checkpoints: this.#checkpoints,
      startsAt: this.#startsAt,
      sealedAt: this.#sealedAt,
      rootFingerprint: this.#root,
      end: this.#cursor,
    }
  }

  #takeLog({ from, authorities }: Line<'log'>): void {
    if (this.#from !== undefined) throw broken('it begins twice')
    let known: CertificateFacts[]
    try {
      known = authorities.map((pem) => parseAuthority(parsePem(pem, 'CERTIFICATE')[0]!))
    } catch (cause) {
      throw broken('its CA certificates cannot be read', cause)
    }
    const [root, ...others] = known
    if (root === undefined || !isIssuedBy(root, root)) throw broken('its first CA certificate is no root')
    const pin = this.#pinnedRoot
    if (pin !== undefined && root.fingerprint !== pin) {
      throw broken(`its root is ${root.fingerprint}, and the one that was named is ${pin}: it is of another gateway`)
    }
    const stranger = others.find((authority) => !isIssuedBy(authority, root))
    if (stranger !== undefined) throw broken(`its CA certificate ${stranger.fingerprint} is not issued by its root`)
    this.#authorities = known
    this.#root = root.fingerprint
    this.#from = from
    this.#cursor = from
    this.#compareWithEarlier()
  }

  #takeEntry({ seq, hash, body }: Line<'entry'>): void {
    const next = this.#cursor.seq + 1
    if (seq !== next) {
      const [first, last] = [next, seq - 1]
      throw broken(
        seq > next
          ? `${last === first ? `entry ${first} is` : `entries ${first} to ${last} are`} missing`
          : `entry ${seq} stands where entry ${next} belongs`,
      )
    }
    if (chainHash(this.#cursor.hash, body) !== hash) {
      throw broken(`the chain breaks at entry ${seq}: what it says was changed, or what stands before it`)
    }
    this.#cursor = { seq, hash }
    this.#compareWithEarlier()
  }

  #takeCheckpoint(statement: Line<'checkpoint'>): void {
    const { seq, hash } = this.#cursor
    const said = read(statement, checkpointBody, `the checkpoint behind entry ${seq}`)
    const name = `checkpoint ${said.number} of ${said.at}`
    this.#requireSigned(checkpointKind, statement, said.at, name)
    const before = this.#previous
    if (before !== undefined && (said.number !== before.number + 1 || said.previous !== before.digest)) {
      throw broken(`${name} does not follow checkpoint ${before.number}, which stands before it`)
    }
    if (said.seq !== seq) throw broken(`${name} is about entry ${said.seq}, and stands behind entry ${seq}`)
    if (said.hash !== hash) {
      throw broken(`${name} says otherwise of entry ${seq}: the log was written anew up to there, or from before it`)
    }
    this.#firstCheckpoint ??= said.number
    this.#previous = { number: said.number, digest: createHash('sha256').update(statement.body).digest('hex') }
    this.#checkpoints++
    if (seq > 0 && seq === this.#from!.seq) this.#startsAt = said.number
  }

  #takeSeal(statement: Line<'seal'>): void {
    const said = read(statement, sealBody, 'the seal')
    this.#requireSigned(sealKind, statement, said.at, 'the seal')
    const { from, to } = said
    const isFrom = from.seq === this.#from!.seq && from.hash === this.#from!.hash
    if (!isFrom) throw broken(`it starts behind entry ${this.#from!.seq}, and by its seal behind entry ${from.seq}`)
    if (to.seq !== this.#cursor.seq) {
      throw broken(`it ends with entry ${this.#cursor.seq}, and by its seal with entry ${to.seq}: the rest was cut off`)
    }
    if (to.hash !== this.#cursor.hash) throw broken(`the seal says otherwise of entry ${to.seq}: it was written anew`)
    const first = this.#firstCheckpoint ?? said.before + 1
    const last = this.#previous?.number ?? said.before
    if (first > said.before + 1 || last !== said.last) {
      throw broken(`it has checkpoints ${first} to ${last}, and by its seal ${said.before + 1} to ${said.last}`)
    }
    this.#sealedAt = said.at
  }

  #requireSigned(kind: string, statement: Statement, at: string, name: string): void {
    try {
      requireSigned(kind, statement, { authorities: this.#authorities, at: new Date(at) })
    } catch (cause) {
      if (!(cause instanceof FleetError)) throw cause
      throw broken(`${name} cannot be believed: ${cause.message}`, cause)
    }
  }

  #compareWithEarlier(): void {
    const earlier = this.#continues
    if (earlier?.seq !== this.#cursor.seq) return
    this.#metEarlier = true
    if (earlier.hash === this.#cursor.hash) return
    throw broken(`entry ${earlier.seq} is another one than the earlier export ends with: the log was written anew`)
  }
}

type Schema<T> = { parse(value: unknown): T }

function read<T>({ body }: Statement, schema: Schema<T>, name: string): T {
  try {
    return schema.parse(JSON.parse(body))
  } catch (cause) {
    throw broken(`${name} cannot be read`, cause)
  }
}

export const broken = (what: string, cause?: unknown): FleetError =>
  new FleetError('audit_broken', `the audit log does not hold: ${what}`, { cause })
