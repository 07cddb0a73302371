import type { Command } from 'commander'
import type { StatusView } from '../../contract/admin-api.ts'
import type { Io } from '../io.ts'
import { fields, table } from '../output.ts'
import { admitsUntil } from './broker.ts'
import { ask, type Common, examples, withCommon } from './shared.ts'

export function addStatus(program: Command, io: Io): void {
  examples(withCommon(program.command('status')), 'status', 'status --data /var/lib/fleetgate -o json')
    .description('show whether the gateway runs and how far its brokers have followed')
    .action((options: Common) => ask(io, options, (client) => client.status(), render))

  const render = (view: StatusView): string =>
    fields(
      [
        ['version', view.version],
        ['started', view.startedAt],
        ['root SHA-256', view.rootFingerprint],
        ['issuing CA ends', view.authorities?.issuingEnds],
        ['feed', String(view.feedSeq)],
        ['CRL number', view.revocationLists && `${view.revocationLists.number}, feed ${view.revocationLists.feedSeq}`],
        // A line for each fault.
        ...(view.configuration?.refused?.split('\n') ?? []).map((fault): [string, string] => ['refused', fault]),
        ['needs a restart', view.configuration?.waitsForRestart.join(', ')],
      ],
      io.colour,
    ) +
    table(
      ['broker', 'connected', 'applied', 'last seen', 'admits until'],
      view.brokers.map((broker) => [
        broker.id,
        broker.connected ? 'yes' : 'no',
        `${broker.appliedSeq} of ${view.feedSeq}`,
        broker.lastSeenAt,
        admitsUntil(broker),
      ]),
      io.colour,
    )
}
