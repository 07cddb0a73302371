import type { Command } from 'commander'
import type { Io } from '../io.ts'
import { examples, outputOption, plain, wholeNumber } from './shared.ts'

export function addDemo(program: Command, io: Io): void {
  examples(program.command('demo'), 'demo', 'demo --devices 100 --once', 'demo --once -o json')
    .description('show the whole story on a throw-away gateway: enroll, publish, be refused, renew, be revoked')
    .option('--devices <number>', 'size of the fleet', wholeNumber(4, 1_000), 25)
    .option('--once', 'end after the last step; exit code 0 only if every step was observed to hold')
    .addOption(outputOption(plain))
    .action(async (options: { devices: number; once?: boolean; output: 'table' | 'json' }) => {
      // A simulated fleet is half of what the command line would load, and no other command needs it.
      const { demo } = await import('../demo.ts')
      await demo(options, io)
    })
}
