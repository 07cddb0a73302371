import { randomBytes } from 'node:crypto'
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { FleetError, systemFault } from './errors.ts'

/**
 * Writes `path` whole or not at all: a new file beside it, synced, then renamed over it.
 *
 * @throws FleetError `data_damaged` when the disk is full, or the folder may not be written
 */
export function writeFileAtomic(path: string, content: string | Uint8Array, mode = 0o644): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  const draft = join(dirname(path), `.${randomBytes(6).toString('hex')}.tmp`)
  try {
    const file = openSync(draft, 'wx', mode)
    try {
      writeFileSync(file, content)
      fsyncSync(file)
    } finally {
      closeSync(file)
    }
    renameSync(draft, path)
  } catch (error) {
    rmSync(draft, { force: true })
    throw new FleetError('data_damaged', `${path} cannot be written: ${systemFault(error)}`, { cause: error })
  }
  syncFolder(dirname(path))
}

/** So that a rename in it survives a power cut. */
export function syncFolder(path: string): void {
  const folder = openSync(path, 'r')
  try {
    fsyncSync(folder)
  } finally {
    closeSync(folder)
  }
}

/**
 * A private key's text.
 *
 * @throws FleetError `key_permissions` when group or others may read it; `data_damaged` when it cannot be read
 */
export function readPrivateFile(path: string): string {
  let mode: number
  let text: string
  try {
    mode = statSync(path).mode
    text = readFileSync(path, 'utf8')
  } catch (cause) {
    throw new FleetError('data_damaged', `${path} cannot be read: ${systemFault(cause)}`, { cause })
  }
  if (process.platform !== 'win32' && (mode & 0o077) !== 0) {
    const seen = (mode & 0o777).toString(8).padStart(4, '0')
    throw new FleetError(
      'key_permissions',
      `${path} has mode ${seen}, so others can read a private key; run: chmod 600 ${path}`,
    )
  }
  return text
}

/**
 * The passphrase of the private keys: the file's text without the newline at its end.
 *
 * @param path undefined when keys are stored in the clear
 * @throws FleetError `config_invalid` when the file cannot be read or is empty
 */
export function readPassphrase(path: string | undefined): string | undefined {
  if (path === undefined) return undefined
  let text: string
  try {
    text = readFileSync(path, 'utf8').replace(/\r?\n$/, '')
  } catch (cause) {
    throw new FleetError('config_invalid', `keys.passphraseFile: ${path} cannot be read`, { cause })
  }
  if (text === '') throw new FleetError('config_invalid', `keys.passphraseFile: ${path} is empty`)
  return text
}
