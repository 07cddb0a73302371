import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { loadConfig } from '../runtime/config.ts'
import { runService } from '../runtime/lifecycle.ts'
import { createEnrollService } from './service.ts'

const { values } = parseArgs({ options: { config: { type: 'string' }, data: { type: 'string' } } })
await runService('enroll', (log) => {
  const config = loadConfig({ file: values.config, flags: { data: values.data } })
  log.level = config.log.level
  return createEnrollService({ config, dataDir: resolve(config.data), log })
})
