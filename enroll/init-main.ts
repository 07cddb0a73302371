/** Makes what a data folder lacks and tells its parent what it made. */
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import type { SetUpSummary } from '../contract/set-up.ts'
import { loadConfig } from '../runtime/config.ts'
import { exitCodeOf, isFleetError } from '../runtime/errors.ts'
import type { Failed } from '../runtime/lifecycle.ts'
import { createLog } from '../runtime/log.ts'
import { initialize } from './init.ts'

export type InitAnswer = { kind: 'read'; summary: SetUpSummary } | Failed

const { values } = parseArgs({ options: { config: { type: 'string' }, data: { type: 'string' } } })
const tell = (answer: InitAnswer): Promise<void> => new Promise((resolve) => process.send!(answer, () => resolve()))
try {
  const config = loadConfig({ file: values.config, flags: { data: values.data } })
  const log = createLog('enroll', 'warn')
  const summary = await initialize({ config, dataDir: resolve(config.data), clock: () => new Date(), log })
  await tell({ kind: 'read', summary })
} catch (error) {
  await tell({ kind: 'failed', code: isFleetError(error) ? error.code : 'internal', message: (error as Error).message })
  process.exitCode = exitCodeOf(error)
}
process.disconnect()
