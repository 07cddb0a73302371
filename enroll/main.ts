import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { joinAddress, loadConfig, splitAddress } from '../runtime/config.ts'
import { writeEndpoints } from '../runtime/endpoints.ts'
import { reachableHost } from '../runtime/https.ts'
import { runService } from '../runtime/lifecycle.ts'
import { createEnrollService } from './service.ts'

const { values } = parseArgs({ options: { config: { type: 'string' }, data: { type: 'string' } } })
await runService('enroll', async (log) => {
  const config = loadConfig({ file: values.config, flags: { data: values.data } })
  log.level = config.log.level
  const dataDir = resolve(config.data)
  const service = await createEnrollService({ config, dataDir, log })
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
  return service
})
