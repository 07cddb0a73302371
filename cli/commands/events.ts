import type { Command } from 'commander'
import type { AuditView } from '../../contract/audit-api.ts'
import { openAdminClient } from '../admin-client.ts'
import type { Io } from '../io.ts'
import { styled, visible } from '../output.ts'
import { type Common, entryForm, examples, wholeNumber, withCommon } from './shared.ts'

export function addEvents(program: Command, io: Io): void {
  const events = program.command('events').description('what happens, as it happens')

  examples(withCommon(events.command('tail')), 'events tail', 'events tail --since 4711 -o json | jq .action')
    .description(
      'print what happens until it is interrupted; json is one object a line, yaml one document each, and its seq goes on with --since',
    )
    .option('--since <number>', 'begin after this one (default: with what happens next)', wholeNumber(0, 999_999_999))
    .action(async ({ data, output, since }: Common & { since?: number }) => {
      using client = openAdminClient(data)
      const stop = io.untilSignal()
      for await (const entry of client.followEvents(since, stop)) {
        io.out(entryForm(output, entry, line))
      }
    })

  const line = ({ seq, at, action, subject, outcome, reason, actor }: AuditView): string =>
    [
      styled('dim', `${seq} ${visible(at)}`, io.colour),
      styled('bold', visible(action), io.colour),
      visible(subject),
      visible(reason === undefined ? outcome : `${outcome} (${reason})`),
      `by ${visible(actor)}\n`,
    ].join('  ')
}
