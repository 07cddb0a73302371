import { randomBytes } from 'node:crypto'
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { FleetError, systemFault } from './errors.ts'

/**
 * Makes a folder where there is none, and those above it.
 *
 * @throws FleetError `data_damaged`
 */
export function makeFolder(path: string, mode = 0o700): void {
  try {
    makeMissing(path, mode)
  } catch (cause) {
    const { code, path: at } = cause as NodeJS.ErrnoException
    const why =
      code === 'EEXIST' ? `${at} is a file` : code === 'ENOENT' ? 'nothing can be made there' : systemFault(cause)
    throw new FleetError('data_damaged', `the folder ${path} cannot be made: ${why}; name another`, { cause })
  }
}

// mkdir's own recursion tries for ever where a file system, such as /proc, says ENOENT of what it lets nobody make.
function makeMissing(path: string, mode: number): void {
  const isThere = (): boolean => statSync(path, { throwIfNoEntry: false })?.isDirectory() === true
  if (isThere()) return
  const above = dirname(path)
  if (above !== path) makeMissing(above, mode)
  try {
    mkdirSync(path, { mode })
  } catch (error) {
    // Another process may have been faster.
    if (!isThere()) throw error
  }
}

/**
 * Sees to a folder that is to be worked in: makes it where there is none.
 *
 * @throws FleetError `data_damaged`
 */
export function requireFolder(path: string): void {
  makeFolder(path)
  try {
    rmdirSync(mkdtempSync(join(path, '.probe-')))
  } catch (cause) {
    const sentence = `the folder ${path} cannot be written: ${systemFault(cause)}; name another, or be its owner`
    throw new FleetError('data_damaged', sentence, { cause })
  }
}

/**
 * Writes `path` whole or not at all: a new file beside it, synced, then renamed over it.
 *
 * @throws FleetError `data_damaged` when the disk is full, or the folder may not be written
 */
export function writeFileAtomic(path: string, content: string | Uint8Array, mode = 0o644): void {
  makeFolder(dirname(path))
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
