/** A broker in a process of its own, to be killed: `startBrokerProcess` starts what the lower part of this file runs. */
import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import { createBrokerService } from '../../broker/service.ts'
import { type Configuration, configuration } from '../../contract/configuration.ts'
import { createLog } from '../../runtime/log.ts'
import type { BrokerHarness } from './broker.ts'
import { hear } from './hear.ts'

type Wanted = { folder: string; broker: Partial<Configuration['broker']>; skewMs: number }

type Options = { broker?: Partial<Configuration['broker']>; skewMs?: number }

/** In the folder of a harness, whose own broker is stopped, and with its feed. */
export async function startBrokerProcess(
  harness: BrokerHarness,
  options: Options = {},
): Promise<{ child: ChildProcess; port: number }> {
  const child = spawnBrokerProcess(harness, options)
  return { child, port: Number(new URL(await hear(child)).port) }
}

/** The same, and is not waited for. */
export function spawnBrokerProcess(harness: BrokerHarness, options: Options = {}): ChildProcess {
  const wanted: Wanted = {
    folder: harness.folder,
    broker: { feed: harness.feed.address, ...options.broker },
    skewMs: options.skewMs ?? 0,
  }
  return spawn(process.execPath, [import.meta.filename, JSON.stringify(wanted)], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
}

if (process.argv[1] === import.meta.filename) {
  // It does not outlive its parent, however that ends.
  process.stdin.on('end', () => process.exit(1)).resume()
  const { folder, broker, skewMs }: Wanted = JSON.parse(process.argv[2]!)
  const service = await createBrokerService({
    config: configuration.parse({ broker: { listen: '127.0.0.1:0', ...broker } }),
    dataDir: join(folder, 'data'),
    credentialDir: join(folder, 'credential'),
    clock: () => new Date(Date.now() + skewMs),
    log: createLog('broker', 'silent'),
  })
  await service.feed.untilLive()
  console.log(service.endpoints.mqtts)
}
