/** `verify`, or `restore DIR`: reads a backup, unsealed, from standard input and tells its parent what came of it. */

import { pipeline } from 'node:stream'
import { createGunzip } from 'node:zlib'
import type { BackupSummary } from '../contract/backup.ts'
import { exitCodeOf, isFleetError } from '../runtime/errors.ts'
import type { Failed } from '../runtime/lifecycle.ts'
import { restoreBackup, verifyBackup } from './restore.ts'

export type RestoreAnswer = { kind: 'read'; summary: BackupSummary } | Failed

const [what, dataDir] = process.argv.slice(2)
const tell = (answer: RestoreAnswer): Promise<void> => new Promise((resolve) => process.send!(answer, () => resolve()))
// Its parent decides when it is enough: what was begun is taken back, and not left half done.
for (const signal of ['SIGINT', 'SIGHUP'] as const) process.on(signal, () => {})
try {
  const text = pipeline(process.stdin, createGunzip(), () => {})
  const summary = what === 'restore' ? await restoreBackup(text, dataDir!, new Date()) : await verifyBackup(text)
  await tell({ kind: 'read', summary })
} catch (error) {
  await tell({ kind: 'failed', code: isFleetError(error) ? error.code : 'internal', message: (error as Error).message })
  process.exitCode = exitCodeOf(error)
}
process.disconnect()
