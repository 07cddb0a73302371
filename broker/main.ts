import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { loadConfig } from '../runtime/config.ts'
import { runService } from '../runtime/lifecycle.ts'
import { createBrokerService } from './service.ts'

const { values } = parseArgs({ options: { config: { type: 'string' }, data: { type: 'string' } } })
await runService('broker', (log) => {
  const config = loadConfig({ file: values.config, flags: { data: values.data } })
  log.level = config.log.level
  return createBrokerService({
    config,
    dataDir: resolve(config.data, 'broker'),
    credentialDir: resolve(config.data, 'services', 'broker'),
    log,
  })
})
