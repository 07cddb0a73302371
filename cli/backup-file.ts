/** A backup as a file: its head, and the key that its passphrase gives. */
import { randomBytes, type ScryptOptions, scrypt } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { type BackupHead, backupHead } from '../contract/backup.ts'
import { FleetError, systemFault } from '../runtime/errors.ts'
import { sealedKeyBytes } from '../runtime/sealed-stream.ts'

/** 128 MiB and half a second for each guess. */
const cost = { N: 2 ** 17, r: 8, p: 1 } as const
const maxHead = 1_024

export type KeyParameters = Omit<BackupHead, 'records'>

export const newParameters = (): KeyParameters => ({
  fleetgateBackup: 1,
  kdf: 'scrypt',
  ...cost,
  salt: randomBytes(32).toString('base64'),
})

export function keyOf(passphrase: string, { N, r, p, salt }: KeyParameters): Promise<Buffer> {
  const options: ScryptOptions = { N, r, p, maxmem: 129 * N * r }
  return new Promise((resolve, reject) => {
    scrypt(
      Buffer.from(passphrase.normalize('NFC')),
      Buffer.from(salt, 'base64'),
      sealedKeyBytes,
      options,
      (error, key) => (error === null ? resolve(key) : reject(error)),
    )
  })
}

/** @throws FleetError `config_invalid` when there is no such file, `backup_unreadable` */
export async function openBackup(path: string): Promise<{ head: BackupHead; sealed: AsyncIterable<Buffer> }> {
  const chunks = octetsOf(path)
  let start = Buffer.alloc(0)
  while (!start.includes(0x0a) && start.length <= maxHead) {
    const next = await chunks.next()
    if (next.done) break
    start = Buffer.concat([start, next.value])
  }
  const end = start.indexOf(0x0a)
  let head: BackupHead
  try {
    head = backupHead.parse(JSON.parse(start.toString('utf8', 0, end)))
  } catch (cause) {
    throw new FleetError('backup_unreadable', `${path} is not a backup of this version`, { cause })
  }
  return {
    head,
    sealed: (async function* () {
      yield start.subarray(end + 1)
      yield* chunks
    })(),
  }
}

async function* octetsOf(path: string): AsyncGenerator<Buffer> {
  try {
    yield* createReadStream(path) as AsyncIterable<Buffer>
  } catch (cause) {
    throw new FleetError('config_invalid', `${path} cannot be read: ${systemFault(cause)}`, { cause })
  }
}
