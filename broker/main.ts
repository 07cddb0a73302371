import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import type { Configuration } from '../contract/configuration.ts'
import { loadConfig } from '../runtime/config.ts'
import { FileWatch } from '../runtime/file-watch.ts'
import { runService } from '../runtime/lifecycle.ts'
import { createBrokerService } from './service.ts'

const watchEveryMs = 1_000

const { values } = parseArgs({ options: { config: { type: 'string' }, data: { type: 'string' } } })
await runService('broker', async (log) => {
  const load = (): Configuration => loadConfig({ file: values.config, flags: { data: values.data } })
  const config = load()
  log.level = config.log.level
  const service = await createBrokerService({
    config,
    dataDir: resolve(config.data, 'broker'),
    credentialDir: resolve(config.data, 'services', 'broker'),
    load,
    log,
  })
  const reload = async (): Promise<void> => void service.reconfigure(load)
  const watch = new FileWatch(watchEveryMs, reload)
  if (values.config !== undefined) watch.watch([values.config])
  return {
    endpoints: service.endpoints,
    reload,
    async [Symbol.asyncDispose]() {
      watch[Symbol.dispose]()
      await service[Symbol.asyncDispose]()
    },
  }
})
