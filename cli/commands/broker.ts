import type { Command } from 'commander'
import type { StatusView } from '../../contract/admin-api.ts'
import type { Io } from '../io.ts'
import { fields, table } from '../output.ts'
import { ask, type Common, examples, withCommon } from './shared.ts'

type Broker = StatusView['brokers'][number]

export function addBroker(program: Command, io: Io): void {
  const broker = program
    .command('broker')
    .description('brokers that follow this gateway, and have to confirm a revocation')

  examples(withCommon(broker.command('ls')), 'broker ls', 'broker ls -o json')
    .description('list them, with how far each has followed')
    .action((options: Common) => ask(io, options, async (client) => ({ items: (await client.status()).brokers }), list))

  examples(withCommon(broker.command('forget')), 'broker forget broker-2')
    .description('wait no longer for a broker that was taken out of service; one that is connected is not forgotten')
    .argument('<id>', 'name of the broker')
    .action((id: string, options: Common) =>
      ask(
        io,
        options,
        (client) => client.forgetBroker(id),
        (answer) => fields([['forgotten', answer.id]], io.colour),
      ),
    )

  const list = ({ items }: { items: Broker[] }): string =>
    table(
      ['broker', 'connected', 'applied', 'last seen'],
      items.map((item) => [item.id, item.connected ? 'yes' : 'no', String(item.appliedSeq), item.lastSeenAt]),
      io.colour,
    )
}
