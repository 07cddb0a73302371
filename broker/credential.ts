import { createPrivateKey, createPublicKey } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { parseCertificate, parsePem, toPem } from '../pki/certificate.ts'
import { FleetError } from '../runtime/errors.ts'
import { readPassphrase, readPrivateFile, writeFileAtomic } from '../runtime/files.ts'
import type { EdgeCredential } from '../runtime/https.ts'
import type { Log } from '../runtime/log.ts'

/** What this broker proves itself with, to devices and to enroll. */
export type BrokerCredential = EdgeCredential & {
  /** PEM of the root that enroll's certificate must lead to. */
  root: string
  /** PEM of the root and of the broker's own issuing CA: enough to tell strangers before the feed was ever heard. */
  authorities: string[]
  /** Changes when one of the files does. */
  stamp: string
}

const files = { key: 'tls.key', certificate: 'tls.crt', root: 'root.crt' }

/** Follows the files of a credential, and keeps there what enroll renews. */
export class CredentialFiles {
  readonly #folder: string
  readonly #passphraseFile: string | undefined
  readonly #changed: () => void
  readonly #log: Log
  current: BrokerCredential

  /** @throws FleetError as `readCredential` */
  constructor(options: { folder: string; passphraseFile: string | undefined; changed: () => void; log: Log }) {
    this.#folder = options.folder
    this.#passphraseFile = options.passphraseFile
    this.#changed = options.changed
    this.#log = options.log
    this.current = readCredential(this.#folder, this.#passphraseFile)
  }

  /** Looks at the files. What cannot be used leaves what was read before in force. */
  refresh(): void {
    if (credentialStamp(this.#folder) === this.current.stamp) return
    const former = this.current
    try {
      this.current = readCredential(this.#folder, this.#passphraseFile)
      this.#changed()
      this.#log.info({ event: 'credential.renewed' }, 'new service certificate in use')
    } catch (err) {
      this.current = former
      this.#log.error({ event: 'credential.notRenewed', err }, 'new service certificate cannot be used')
    }
  }

  /** @param certificate PEM, the CA that issued it behind; on one machine it may stand in the files already */
  keep(certificate: string): void {
    this.refresh()
    if (this.current.cert === certificate) return
    try {
      requireKeyOf(certificate, this.current)
      writeFileAtomic(join(this.#folder, files.certificate), certificate)
    } catch (err) {
      this.#log.error({ event: 'credential.notRenewed', err }, 'new service certificate cannot be kept')
    }
    this.refresh()
  }
}

/** @throws FleetError `request_malformed` */
function requireKeyOf(certificate: string, { key, passphrase }: BrokerCredential): void {
  const [leaf, issuer] = parsePem(certificate, 'CERTIFICATE').map((der) => parseCertificate(der))
  const own = createPublicKey(createPrivateKey({ key, ...(passphrase === undefined ? {} : { passphrase }) }))
  if (issuer?.isCa && leaf?.publicKeySpki.equals(own.export({ format: 'der', type: 'spki' }))) return
  throw new FleetError('request_malformed', 'it is no certificate for the key of this broker, with its CA behind it')
}

/**
 * @param folder         written by enroll
 * @param passphraseFile undefined when keys are stored in the clear
 * @throws FleetError `data_damaged`, `key_permissions`, `key_passphrase`, `config_invalid`
 */
export function readCredential(folder: string, passphraseFile: string | undefined): BrokerCredential {
  const stamp = credentialStamp(folder)
  const key = readPrivateFile(join(folder, files.key))
  const passphrase = readPassphrase(passphraseFile)
  const cert = read(join(folder, files.certificate))
  const root = read(join(folder, files.root))
  try {
    createPrivateKey({ key, ...(passphrase === undefined ? {} : { passphrase }) })
  } catch (cause) {
    throw new FleetError(
      'key_passphrase',
      `${join(folder, files.key)} cannot be opened with the configured passphrase`,
      { cause },
    )
  }
  const issuers = parsePem(cert, 'CERTIFICATE').slice(1)
  return { key, passphrase, cert, root, authorities: [root, ...issuers.map((der) => toPem(der))], stamp }
}

export function credentialStamp(folder: string): string {
  return Object.values(files)
    .map((name) => statSync(join(folder, name), { throwIfNoEntry: false })?.mtimeMs ?? 'missing')
    .join(' ')
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (cause) {
    throw new FleetError('data_damaged', `${path} cannot be read: ${(cause as Error).message}`, { cause })
  }
}
