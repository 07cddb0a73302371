import { fork } from 'node:child_process'
import { once } from 'node:events'
import { pipeline } from 'node:stream/promises'
import { fileURLToPath } from 'node:url'
import { type BackupSummary, backupSummary } from '../contract/backup.ts'
import { answerOf, requireAnswer } from './answering-process.ts'

const here = fileURLToPath(import.meta.url)

/**
 * Has the enrollment service read a backup in a process of its own, which alone knows the registry.
 *
 * @param words  `verify`, or `restore` and an absolute folder
 * @param plain  the backup, unsealed; where it fails, nothing is left of what was restored
 */
export async function readBackup(words: string[], plain: AsyncIterable<Buffer>): Promise<BackupSummary> {
  const entry = here.replace(/cli\/restore-process(\.[jt]s)$/, 'enroll/restore-main$1')
  const child = fork(entry, words, { stdio: ['pipe', 2, 2, 'ipc'], execArgv: [] })
  const answered = answerOf(child)
  let failure: unknown
  // A child that refuses what it reads stops reading.
  await pipeline(plain, child.stdin!).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE' && error.code !== 'ERR_STREAM_PREMATURE_CLOSE') failure = error
  })
  const answer = await answered
  if (child.exitCode === null && child.signalCode === null) await once(child, 'close')
  // What was wrong with the file says more than that its end was missing.
  if (failure !== undefined) throw failure
  return backupSummary.parse(requireAnswer(answer, 'restore'))
}
