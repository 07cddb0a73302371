import { createPrivateKey, type KeyObject } from 'node:crypto'
import { globSync, statSync } from 'node:fs'
import { join } from 'node:path'
import type { SealedKeys } from '../contract/set-up.ts'
import { sealedKey } from '../pki/keystore.ts'
import { FleetError } from '../runtime/errors.ts'
import { readPrivateFile, writeFileAtomic } from '../runtime/files.ts'
import { holdDatabase } from './registry/database.ts'

/** Where the keys of a gateway are; those of a broker's machine are one of them. */
const folders = ['enroll/ca', 'services/*', 'operator']

/**
 * Seals the keys of a data folder with another passphrase, or none. Each is opened before the first is written, and each is replaced by
 * one rename: what a crash leaves opens with the one or the other, and is sealed to its end by the same call.
 *
 * @param from undefined: in the clear, as keys without a passphrase are
 * @throws FleetError `data_in_use` while a gateway, or a broker alone, runs on it; `key_permissions`; `key_passphrase` for a key that opens with neither;
 *   `data_damaged`
 */
export async function sealKeys(input: {
  dataDir: string
  from: string | undefined
  to: string | undefined
}): Promise<SealedKeys> {
  const { dataDir, from, to } = input
  requireOwner(dataDir)
  await using _registry = await holdDatabase(join(dataDir, 'enroll', 'registry'))
  await using _broker = await holdDatabase(join(dataDir, 'broker'))
  const paths = globSync(
    folders.map((folder) => `${folder}/*.key`),
    { cwd: dataDir },
  ).sort()
  if (paths.length === 0) throw new FleetError('data_damaged', `there is no key in ${dataDir}`)
  const keys = paths.map((path) => ({ path, ...open(join(dataDir, path), [from, to]) }))
  const due = keys.filter(({ by }) => by !== to)
  for (const { path, key } of due) writeFileAtomic(join(dataDir, path), sealedKey(key, to), 0o600)
  return {
    sealed: due.map(({ path }) => path),
    kept: keys.filter(({ by }) => by === to).map(({ path }) => path),
  }
}

/** What another user writes is that user's, and the gateway could not read its own keys. */
function requireOwner(dataDir: string): void {
  const owner = statSync(dataDir, { throwIfNoEntry: false })?.uid
  const own = process.getuid?.()
  if (owner === undefined) throw new FleetError('data_damaged', `there is no ${dataDir}`)
  if (own === undefined || own === owner) return
  throw new FleetError('key_permissions', `${dataDir} belongs to the user ${owner}, and this is ${own}; be that user`)
}

/** @returns the key, and the passphrase that it was sealed with */
function open(path: string, passphrases: (string | undefined)[]): { key: KeyObject; by: string | undefined } {
  const pem = readPrivateFile(path)
  if (!pem.includes('-----BEGIN ENCRYPTED PRIVATE KEY-----')) return { key: read(path, pem, undefined), by: undefined }
  for (const by of passphrases) {
    if (by === undefined) continue
    try {
      return { key: read(path, pem, by), by }
    } catch {
      // The next one.
    }
  }
  throw new FleetError(
    'key_passphrase',
    `${path} opens neither with the former passphrase nor with the new one; nothing was changed`,
  )
}

function read(path: string, pem: string, passphrase: string | undefined): KeyObject {
  try {
    return createPrivateKey({ key: pem, format: 'pem', ...(passphrase === undefined ? {} : { passphrase }) })
  } catch (cause) {
    throw new FleetError('data_damaged', `${path} holds no readable private key`, { cause })
  }
}
