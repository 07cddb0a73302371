import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import type { Configuration } from '../contract/configuration.ts'
import { joinAddress, loadConfig, splitAddress } from '../runtime/config.ts'
import { writeEndpoints } from '../runtime/endpoints.ts'
import { FileWatch } from '../runtime/file-watch.ts'
import { reachableHost } from '../runtime/https.ts'
import { runService } from '../runtime/lifecycle.ts'
import { createEnrollService, type EnrollService } from './service.ts'

const watchEveryMs = 1_000

const { values } = parseArgs({ options: { config: { type: 'string' }, data: { type: 'string' } } })
await runService('enroll', async (log) => {
  const load = (): Configuration => loadConfig({ file: values.config, flags: { data: values.data } })
  const config = load()
  log.level = config.log.level
  const dataDir = resolve(config.data)
  const service = await createEnrollService({ config, dataDir, configFile: values.config, load, log })
  // A supervisor knows where the broker really listens and writes this itself; alone, as in a container, it is done here.
  if (process.send === undefined) {
    const { host, port } = splitAddress(config.broker.listen)
    const passphraseFile = config.keys.passphraseFile
    writeEndpoints(dataDir, {
      ...service.endpoints,
      mqtts: `mqtts://${joinAddress(reachableHost(host), port)}`,
      ...(passphraseFile === undefined ? {} : { operatorKeyPassphraseFile: resolve(passphraseFile) }),
    })
  }
  return watched(service, config, load)
})

/** Follows the configuration file and the files that it names; SIGHUP looks at once. */
function watched(service: EnrollService, config: Configuration, load: () => Configuration) {
  const file = values.config
  if (file === undefined) return service
  const reload = async (by: 'file' | 'signal'): Promise<void> => {
    let next: Configuration | undefined
    await service.reconfigure(
      () => {
        next = load()
        return next
      },
      { by, actor: 'system' },
    )
    if (next !== undefined) watch.watch([file, ...filesNamedIn(next)])
  }
  const watch = new FileWatch(watchEveryMs, () => void reload('file'))
  watch.watch([file, ...filesNamedIn(config)])
  return {
    endpoints: service.endpoints,
    reload: () => reload('signal'),
    async [Symbol.asyncDispose]() {
      watch[Symbol.dispose]()
      await service[Symbol.asyncDispose]()
    },
  }
}

function filesNamedIn({ labels }: Configuration): string[] {
  const named = Object.values(labels).flatMap(({ factory, claim }) => [factory?.authorities, claim?.authorities])
  return named.filter((path) => path !== undefined)
}
