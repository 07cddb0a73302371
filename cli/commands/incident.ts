import { type Command, InvalidArgumentError } from 'commander'
import type { IncidentView } from '../../contract/incidents.ts'
import type { Io } from '../io.ts'
import { fields, styled, table, visible } from '../output.ts'
import { ask, type Common, deviceId, examples, named, withCommon } from './shared.ts'

export function addIncidents(program: Command, io: Io): void {
  const incident = program.command('incident').description('what somebody has to look at: thefts, clones, stolen keys')

  examples(withCommon(incident.command('ls'), named), 'incident ls', 'incident ls --device cam-1 --all')
    .description('list the incidents that are open')
    .option('--device <id>', 'about this device', deviceId)
    .option('--all', 'those that were closed too')
    .action((options: Common & { device?: string; all?: boolean }) =>
      ask(
        io,
        options,
        async (client) => ({ items: await client.listIncidents({ deviceId: options.device, open: !options.all }) }),
        ({ items }) => list(items),
      ),
    )

  examples(withCommon(incident.command('show'), named), 'incident show 3f9ac0d81b22')
    .description('show an incident with its evidence')
    .argument('<id>', 'as a receipt, a log line or `incident ls` gave it', incidentId)
    .action((id: string, options: Common) => ask(io, options, (client) => client.getIncident(id), details))

  examples(withCommon(incident.command('close')), 'incident close 3f9ac0d81b22 --note "cam-1 is back, wiped"')
    .description('say that an incident was dealt with; what is seen from then on opens another')
    .argument('<id>', 'of the incident', incidentId)
    .requiredOption('--note <text>', 'what became of it (required)')
    .action((id: string, options: Common & { note: string }) =>
      ask(io, options, (client) => client.closeIncident(id, options.note), details),
    )

  const list = (incidents: IncidentView[]): string =>
    table(
      ['incident', 'kind', 'device', 'opened', 'closed', 'evidence'],
      incidents.map((one) => [
        one.id,
        one.kind,
        one.deviceId,
        one.openedAt,
        one.closedAt,
        String(one.evidence.length + (one.leftOut ?? 0)),
      ]),
      io.colour,
    )

  const details = (view: IncidentView): string =>
    fields(
      [
        ['incident', view.id],
        ['kind', view.kind],
        ['device', view.deviceId],
        ['opened', `${view.openedAt} by ${view.openedBy}`],
        ['closed', view.closedAt && `${view.closedAt} by ${view.closedBy}`],
        ['note', view.note],
        ['left out', view.leftOut === undefined ? undefined : `${view.leftOut} in the middle`],
      ],
      io.colour,
    ) + view.evidence.map((one) => evidenceOf(one, io.colour)).join('')
}

function evidenceOf({ at, what, by, remoteAddress, details = {} }: IncidentView['evidence'][number], colour: boolean) {
  const from = remoteAddress === undefined ? '' : ` from ${remoteAddress}`
  const facts = Object.entries(details).map(
    ([name, value]) => `  ${name}=${Array.isArray(value) ? value.join(',') : value}`,
  )
  return `\n${styled('bold', visible(`${at} ${what} by ${by}${from}`), colour)}\n${facts.map((line) => `${visible(line)}\n`).join('')}`
}

function incidentId(text: string): string {
  if (!/^[0-9a-f]{12}$/.test(text)) throw new InvalidArgumentError('An incident id is 12 lower-case hex digits.')
  return text
}
