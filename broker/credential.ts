import { createPrivateKey } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { parsePem, toPem } from '../pki/certificate.ts'
import { FleetError } from '../runtime/errors.ts'
import { readPassphrase, readPrivateFile } from '../runtime/files.ts'
import type { EdgeCredential } from '../runtime/https.ts'

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
