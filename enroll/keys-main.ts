/** Seals the keys of a data folder and tells its parent which. */
import { parseArgs } from 'node:util'
import type { SealedKeys } from '../contract/set-up.ts'
import { exitCodeOf, isFleetError } from '../runtime/errors.ts'
import { readPassphrase } from '../runtime/files.ts'
import type { Failed } from '../runtime/lifecycle.ts'
import { sealKeys } from './key-files.ts'

export type KeysAnswer = { kind: 'read'; summary: SealedKeys } | Failed

const { values } = parseArgs({
  options: { data: { type: 'string' }, from: { type: 'string' }, to: { type: 'string' } },
})
const tell = (answer: KeysAnswer): Promise<void> => new Promise((resolve) => process.send!(answer, () => resolve()))
try {
  const [from, to] = [readPassphrase(values.from), readPassphrase(values.to)]
  await tell({ kind: 'read', summary: await sealKeys({ dataDir: values.data!, from, to }) })
} catch (error) {
  await tell({ kind: 'failed', code: isFleetError(error) ? error.code : 'internal', message: (error as Error).message })
  process.exitCode = exitCodeOf(error)
}
process.disconnect()
