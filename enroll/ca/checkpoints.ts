/** What the audit log says of itself, signed: that it cannot be cut or written anew by who has the disk and not the key. */
import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  type CheckpointBody,
  checkpointBody,
  checkpointKind,
  type SealBody,
  sealKind,
} from '../../contract/audit-api.ts'
import { genesis } from '../../contract/feed.ts'
import type { AuditSettings } from '../../contract/service-settings.ts'
import { type CertificateFacts, parseCertificate, parsePem } from '../../pki/certificate.ts'
import { openKeyFile } from '../../pki/keystore.ts'
import { requireSigned, type Statement, signStatement } from '../../pki/statement.ts'
import { FleetError } from '../../runtime/errors.ts'
import { writeFileAtomic } from '../../runtime/files.ts'
import type { Log } from '../../runtime/log.ts'
import { addCheckpoint, findLastCheckpoint, numberUpTo, pruneBefore } from '../registry/checkpoints.ts'
import type { Registry } from '../registry/registry.ts'

type Options = {
  registry: Registry
  /** Where `audit.key` and `audit.crt` are; `last.json` is kept beside them, so that the registry alone cannot forget. */
  folder: string
  passphrase: string | undefined
  authorities: readonly CertificateFacts[]
  settings: AuditSettings
  clock: () => Date
  /** Milliseconds since whenever, by what nobody sets. */
  elapsed: () => number
  log: Log
  /** How often it is looked whether one is due. */
  pollMs?: number
}

const pruneEveryMs = 3_600_000
/** How far a clock may be slewed in that time. */
const slewMs = 60_000

export class Checkpoints implements AsyncDisposable {
  readonly #options: Options
  #last: CheckpointBody | undefined
  #previous: string = genesis
  #looked: { at: number; elapsed: number } | undefined
  #timer: NodeJS.Timeout | undefined
  #working: Promise<void> = Promise.resolve()

  private constructor(options: Options) {
    this.#options = options
  }

  /** @throws FleetError `data_damaged` when the log is not what the last checkpoint says, or that one is gone */
  static async open(options: Options): Promise<Checkpoints> {
    const checkpoints = new Checkpoints(options)
    await checkpoints.#readLast()
    // What a kill left unsigned.
    await checkpoints.sign()
    checkpoints.#timer = setInterval(() => void checkpoints.#signWhenDue(), options.pollMs ?? 1_000)
    return checkpoints
  }

  /** Where the log stands is signed when this resolves. */
  sign(): Promise<void> {
    const signed = this.#working.then(() => this.#sign())
    this.#working = signed.catch(() => {})
    return signed
  }

  /** Signs what an export is made of. */
  async seal({ from, to }: Pick<SealBody, 'from' | 'to'>): Promise<Statement> {
    const { registry } = this.#options
    const credential = this.#credential()
    const [before, last] = [await numberUpTo(registry, from.seq), await numberUpTo(registry, to.seq)]
    const body: SealBody = {
      from,
      to,
      before,
      last,
      at: within(credential.certificate, this.#options.clock()).toISOString(),
    }
    return signStatement(sealKind, JSON.stringify(body), credential)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer)
    await this.sign().catch((err: unknown) => this.#failed(err))
  }

  async #signWhenDue(): Promise<void> {
    const { registry, settings, clock } = this.#options
    try {
      const { seq } = (await registry.head()).audit
      const { seq: signed = 0, at = '' } = this.#last ?? {}
      const isOld = clock().getTime() - Date.parse(at) >= settings.checkpointEveryMs
      if (seq - signed >= settings.checkpointEntries || (seq > signed && isOld)) await this.sign()
      await this.#prune()
    } catch (err) {
      this.#failed(err)
    }
  }

  async #sign(): Promise<void> {
    const { registry, folder, clock, log } = this.#options
    const { seq, hash } = (await registry.head()).audit
    if (seq === (this.#last?.seq ?? 0)) return
    const credential = this.#credential()
    const at = within(credential.certificate, clock())
    const number = (this.#last?.number ?? 0) + 1
    const said: CheckpointBody = { number, seq, hash, at: at.toISOString(), previous: this.#previous }
    const statement = await signStatement(checkpointKind, JSON.stringify(said), credential)
    await addCheckpoint(registry, { number, seq, ...statement }, at)
    this.#take(said, statement)
    writeFileAtomic(join(folder, 'last.json'), `${JSON.stringify(statement)}\n`)
    // Whoever keeps the log elsewhere has a place there that nobody here can change.
    log.info({ event: 'audit.signed', number, seq, hash }, 'audit log signed as it stands')
  }

  /**
   * What goes is gone for good, so one look at the clock is not enough: it goes by the time of an earlier look, if the clock has since
   * gone on for an hour as time did. One that is ahead for seconds is put right in that hour, and then it begins anew.
   */
  async #prune(): Promise<void> {
    const { registry, settings, clock, elapsed, log } = this.#options
    if (settings.keepDays === undefined) return
    const look = { at: clock().getTime(), elapsed: elapsed() }
    this.#looked ??= look
    const passed = look.elapsed - this.#looked.elapsed
    if (Math.abs(look.at - this.#looked.at - passed) > slewMs) this.#looked = look
    if (look.elapsed - this.#looked.elapsed < pruneEveryMs) return
    const before = new Date(this.#looked.at - settings.keepDays * 86_400_000)
    const start = await pruneBefore(registry, before, ({ body }) => checkpointBody.parse(JSON.parse(body)))
    if (start === undefined) {
      this.#looked = look
      return
    }
    const { number, seq } = start
    // There may be more: the next turn goes on by the same look.
    log.info({ event: 'audit.pruned', number, seq }, 'the audit log begins at a later checkpoint')
  }

  async #readLast(): Promise<void> {
    const { registry, folder } = this.#options
    const damaged = (what: string, cause?: unknown): FleetError =>
      new FleetError('data_damaged', `the audit log ${what}; restore the data folder from a backup`, { cause })
    const stored = await findLastCheckpoint(registry)
    const file = join(folder, 'last.json')
    const noted = existsSync(file) ? this.#read(readFileSync(file, 'utf8'), damaged) : undefined
    const last = stored && this.#read(JSON.stringify(stored.doc), damaged)
    if (noted !== undefined && (last === undefined || last.said.number < noted.said.number)) {
      throw damaged(`has lost checkpoint ${noted.said.number} of ${noted.said.at}, which ${file} knows`)
    }
    if (last === undefined) return
    const { said, statement } = last
    if ((await registry.auditHashAt(said.seq)) !== said.hash) {
      throw damaged(`is not what checkpoint ${said.number} of ${said.at} says of entry ${said.seq}`)
    }
    this.#take(said, statement)
  }

  #read(text: string, damaged: (what: string, cause: unknown) => FleetError) {
    try {
      const { body, signature, certificate }: Statement = JSON.parse(text)
      const statement = { body, signature, certificate }
      const said = checkpointBody.parse(JSON.parse(body))
      requireSigned(checkpointKind, statement, { ...this.#options, at: new Date(said.at) })
      return { said, statement }
    } catch (cause) {
      throw damaged(`has a checkpoint that cannot be believed: ${(cause as Error).message}`, cause)
    }
  }

  #take(said: CheckpointBody, { body }: Statement): void {
    this.#last = said
    this.#previous = createHash('sha256').update(body).digest('hex')
  }

  /** Read each time: it is renewed now and then, and asked for seldom. */
  #credential() {
    const { folder, passphrase } = this.#options
    const der = parsePem(readFileSync(join(folder, 'audit.crt'), 'utf8'), 'CERTIFICATE')[0]!
    return { certificate: parseCertificate(der), signer: openKeyFile(join(folder, 'audit.key'), passphrase) }
  }

  #failed(err: unknown): void {
    this.#options.log.error({ event: 'audit.notSigned', err }, 'the audit log could not be signed as it stands')
  }
}

/** A clock that was set wrong must not make a statement that nobody believes. */
const within = ({ notBefore, notAfter }: CertificateFacts, at: Date): Date =>
  new Date(Math.min(Math.max(at.getTime(), notBefore.getTime()), notAfter.getTime()))
