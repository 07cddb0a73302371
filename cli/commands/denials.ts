import { type Command, InvalidArgumentError } from 'commander'
import type { DenialPage } from '../../contract/admin-api.ts'
import { type Denial, isDenialId } from '../../contract/denials.ts'
import { commandLine } from '../../runtime/endpoints.ts'
import type { Io } from '../io.ts'
import { fields, styled, table, visible } from '../output.ts'
import { ask, type Common, deviceId, examples, named, wholeNumber, withCommon } from './shared.ts'

export function addDenials(program: Command, io: Io): void {
  const denial = program.command('denial').description('what was refused lately, by the brokers and at enrollment')

  examples(withCommon(denial.command('ls'), named), 'denial ls', 'denial ls --device cam-1 -n 5')
    .description('list the last refusals, the newest first')
    .option('--device <id>', 'of this device', deviceId)
    .option('-n, --lines <number>', 'how many', wholeNumber(1, 200), 50)
    .action((options: Common & { device?: string; lines: number }) =>
      ask(
        io,
        options,
        (client) => client.listDenials({ deviceId: options.device, limit: options.lines }),
        (page) => list(page, io.colour),
      ),
    )

  examples(withCommon(program.command('explain')), 'explain 3f9ac0d81b22')
    .description('say why something was refused, and the smallest change that lets it pass')
    .argument('<denial-id>', 'as a log line, a reason string or an EST answer gave it', denialId)
    .action((id: string, options: Common) =>
      ask(
        io,
        options,
        (client) => client.getDenial(id),
        (view) => explained(view, options.data, io.colour),
      ),
    )
}

function denialId(text: string): string {
  if (!isDenialId(text)) throw new InvalidArgumentError('A denial id is 12 lower-case hex digits.')
  return text
}

const whoOf = ({ deviceId, claimedId, clientId, remoteAddress }: Denial): string =>
  deviceId ?? claimedId ?? clientId ?? remoteAddress ?? '?'

function whatOf({ stage, asked, path }: Denial): string {
  if (asked === undefined) return path === undefined ? stage : `${stage} ${path}`
  const how = [
    ...(asked.qos > 0 ? [`at QoS ${asked.qos}`] : []),
    ...(asked.retain ? ['retained'] : []),
    ...(asked.bytes > 0 ? [`${asked.bytes} bytes`] : []),
  ]
  const more = how.length === 0 ? '' : ` (${how.join(', ')})`
  return `${stage === 'will' ? 'will: ' : ''}${asked.action} ${asked.topic}${more}`
}

function list({ items, unheard }: DenialPage, colour: boolean): string {
  const rows = items.map((one) => [one.id, one.lastAt, String(one.count), whoOf(one), one.cause, whatOf(one)])
  const away = unheard.map((id) => `${visible(id)} does not answer; what it refused is missing here\n`).join('')
  return table(['denial', 'last', 'times', 'who', 'cause', 'what'], rows, colour) + away
}

export function explained(denial: Denial, dataDir: string, colour: boolean): string {
  const { statements = [], nearest, fix, variables, certificate, count, firstAt, lastAt } = denial
  const head = fields(
    [
      ['refused', whatOf(denial)],
      ['who', whoOf(denial)],
      ['cause', `${denial.cause}: ${denial.message}`],
      ['verification', denial.state && `${denial.state}${denial.action === 'admit' ? '' : `, ${denial.action}`}`],
      ['by', denial.listener === undefined ? denial.by : `${denial.by}, listener ${denial.listener}`],
      ['from', denial.remoteAddress],
      [
        'certificate',
        certificate && `${certificate.subject}, serial ${certificate.serial}, to ${certificate.notAfter}`,
      ],
      ['when', count === 1 ? lastAt : `${count} times, ${firstAt} to ${lastAt}`],
      ['note', denial.isMixed ? 'more than could be kept apart: this is the first of many' : undefined],
      ...Object.entries(variables).map(([name, values]): [string, string] => [name, values.join(', ')]),
    ],
    colour,
  )
  const tried = statements.map(({ statement, because }) => [statement, because])
  const policy = tried.length === 0 ? '' : `\n${table(['statement', `policy ${denial.policyVersion}`], tried, colour)}`
  const near = nearest === undefined ? '' : `nearest: ${visible(nearest.statement)}: ${visible(nearest.because)}\n`
  return `${head}${policy}${near}\n${styled('bold', 'fix', colour)}  ${fixed(fix, dataDir)}`
}

export function fixed(fix: Denial['fix'], dataDir: string): string {
  if (fix === undefined) return 'none is known; docs/errors.md says what the cause means\n'
  const lines = [
    visible(fix.text),
    ...(fix.command === undefined ? [] : [`  ${visible(commandLine(fix.command, dataDir))}`]),
    ...(fix.setting === undefined ? [] : [`  ${fix.setting.path}: ${JSON.stringify(fix.setting.value)}`]),
    ...(fix.kind === 'policy' ? [`  then: ${visible(commandLine(['policy', 'apply', 'policy.yaml'], dataDir))}`] : []),
  ]
  return `${lines.join('\n')}\n`
}
