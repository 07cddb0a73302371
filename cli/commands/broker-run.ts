import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { loadConfig } from '../../runtime/config.ts'
import { FleetError } from '../../runtime/errors.ts'
import { ChildService } from '../child-service.ts'
import { aborted, type Io, settingsOf } from '../io.ts'
import { backOff, entryOf } from '../supervisor.ts'
import { defaultConfig, examples, folderName } from './shared.ts'
import { told } from './up.ts'

type Options = { config?: string; data?: string }

export function addBrokerRun(broker: Command, io: Io): void {
  examples(broker.command('run'), 'broker run --config broker-2/fleetgate.yaml --data broker-2')
    .description('run a broker alone, on a machine that has the folder which `broker create` made')
    .option('--config <file>', 'configuration file (default: fleetgate.yaml where there is one)')
    .option(
      '--data <dir>',
      'data folder (default: FLEETGATE_DATA, else data: of the configuration, else ./data)',
      folderName,
    )
    .action((options: Options) => runBroker(io, options))
}

async function runBroker(io: Io, options: Options): Promise<void> {
  const file = options.config ?? (existsSync(defaultConfig) ? defaultConfig : undefined)
  const env = settingsOf(io.env)
  const data = resolve(options.data ?? loadConfig({ file, env }).data)
  const stop = io.untilSignal()
  const broker = new ChildService({
    name: 'broker',
    entry: entryOf('broker'),
    args: ['--data', data, ...(file === undefined ? [] : ['--config', resolve(file)])],
    environment: () => env,
    output: 2,
    backOff,
    notify: (event) => io.out(told(event, io.colour)),
  })
  stop.addEventListener('abort', () => broker.expectEnd(), { once: true })
  try {
    await broker.start()
  } catch (error) {
    await broker.stop()
    if (stop.aborted) return
    throw error
  }
  await aborted(stop)
  if (!(await broker.stop())) throw new FleetError('internal', 'the broker did not stop cleanly; look at the log above')
}
