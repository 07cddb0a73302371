import { Command, CommanderError } from 'commander'
import { didYouMean } from '../contract/near-names.ts'
import type { ProblemCode } from '../contract/problems.ts'
import manifest from '../package.json' with { type: 'json' }
import { commandLine, defaultDataDir } from '../runtime/endpoints.ts'
import { exitCodeOf, FleetError } from '../runtime/errors.ts'
import { addApiToken } from './commands/api-token.ts'
import { addAudit } from './commands/audit.ts'
import { addBackup } from './commands/backup.ts'
import { addBroker } from './commands/broker.ts'
import { addCa } from './commands/ca.ts'
import { addCert } from './commands/cert.ts'
import { addCompletion } from './commands/completion.ts'
import { addConfig } from './commands/config.ts'
import { addCrl } from './commands/crl.ts'
import { addDemo } from './commands/demo.ts'
import { addDenials } from './commands/denials.ts'
import { addDevice } from './commands/device.ts'
import { addDoctor } from './commands/doctor.ts'
import { addEnroll } from './commands/enroll.ts'
import { addEvents } from './commands/events.ts'
import { addIncidents } from './commands/incident.ts'
import { addInit } from './commands/init.ts'
import { addKeys } from './commands/keys.ts'
import { addOperator } from './commands/operator.ts'
import { addPolicy } from './commands/policy.ts'
import { addRenew } from './commands/renew.ts'
import { addSession } from './commands/session.ts'
import { dataDirOf, type Format } from './commands/shared.ts'
import { addStatus } from './commands/status.ts'
import { addToken } from './commands/token.ts'
import { addUp } from './commands/up.ts'
import { expiryWarning } from './expiry.ts'
import { Interrupted, type Io, isDebugging } from './io.ts'
import { json, visible } from './output.ts'

/** What the operator has asked for, for hints and for the form of an error. */
type Asked = { output: Format; data: string; config?: string; id?: string }

const nothingAsked: Asked = { output: 'table', data: defaultDataDir }

/** Of every command. Refused: the gateway answered 4xx, or a check said no. */
export const exitCodes = ['ok', 'failure', 'usage or set-up', 'refused'] as const

/**
 * @param argv what stands behind `fleetgate`
 * @returns one of `exitCodes`
 */
export async function run(argv: string[], io: Io): Promise<number> {
  const asked = { ...nothingAsked }
  try {
    await createProgram(io, asked).parseAsync(argv, { from: 'user' })
    return 0
  } catch (error) {
    // Commander has said it already; its own exit code for every fault is 1.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
    io.err(asked.output === 'json' ? json({ error: described(error, asked) }) : `error: ${sentence(error, asked)}\n`)
    if (isDebugging(io.env)) io.err(`${(error as Error).stack ?? ''}\n${causes(error)}`)
    return exitCode(error)
  }
}

export function createProgram(io: Io, asked: Asked = { ...nothingAsked }): Command {
  const program = new Command('fleetgate')
    .description('Gets fleets of devices safely online: enrollment over EST, MQTT over mutual TLS, instant revocation.')
    .version(manifest.version)
    // Or the options of `enroll` would take what stands behind `enroll approvals`.
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({
      writeOut: io.out,
      writeErr: io.err,
      // What was typed, or stands in a file that was named, comes back in it.
      outputError: (text, write) => write(text.split('\n').map(visible).join('\n')),
      getOutHasColors: () => io.colour,
      getErrHasColors: () => io.colour,
    })
    .showHelpAfterError('(add --help for what is possible)')
    .addHelpText('after', `\nExit codes: ${exitCodes.map((meaning, code) => `${code} ${meaning}`).join(', ')}.\n`)
    .helpCommand(false)
    .hook('preAction', (_, command) => note(command, asked, io))
  for (const add of [
    addInit,
    addUp,
    addDemo,
    addDevice,
    addSession,
    addDenials,
    addIncidents,
    addToken,
    addEnroll,
    addRenew,
    addPolicy,
    addCa,
    addCert,
    addCrl,
    addBroker,
    addOperator,
    addApiToken,
    addKeys,
    addAudit,
    addEvents,
    addBackup,
    addStatus,
    addDoctor,
    addConfig,
    addCompletion,
  ])
    add(program, io)
  addHelp(program)
  return program
}

/** Commander's own help command looks no deeper than one level. */
function addHelp(program: Command): void {
  program
    .command('help')
    .description('show what a command is for and how it is called')
    .argument('[command...]', 'such as: device create')
    .action((words: string[]) => {
      let found = program
      for (const word of words) {
        const next = found.commands.find((command) => command.name() === word)
        if (next === undefined) {
          const near = didYouMean(
            word,
            found.commands.map((command) => command.name()),
          )
          program.error(`error: unknown command '${words.join(' ')}'${near}`)
        }
        found = next
      }
      found.help()
    })
}

function note(command: Command, asked: Asked, io: Io): void {
  const options = command.opts<{ output?: Format; data?: string; config?: string; device?: string }>()
  const id = command.args[0] ?? options.device
  Object.assign(asked, { output: options.output ?? 'table', config: options.config, id })
  if (!command.options.some(({ long }) => long === '--data')) return
  asked.data = dataDirOf(options, io.env)
  command.setOptionValue('data', asked.data)
  if (asked.output !== 'table' || isRenewal(command)) return
  const warning = expiryWarning(asked.data, new Date())
  if (warning !== undefined) io.err(warning)
}

const isRenewal = (command: Command): boolean => command.name() === 'renew' && command.parent?.name() === 'operator'

function exitCode(error: unknown): number {
  return error instanceof FleetError && error.context.refused === true ? 3 : exitCodeOf(error)
}

const next: Partial<Record<ProblemCode, (asked: Asked) => string>> = {
  device_unknown: ({ data }) => `see which there are: ${commandLine(['device', 'ls'], data)}`,
  device_exists: ({ data, id = '' }) => `see it: ${commandLine(['device', 'show', id], data)}`,
  certificate_unknown: ({ data }) => `see which there are: ${commandLine(['cert', 'ls'], data)}`,
  port_in_use: ({ data, config }) => {
    const words = ['up', '--ports', 'auto', ...(config === undefined ? [] : ['--config', config])]
    return `stop what uses it, configure another, or take free ones: ${commandLine(words, data)}`
  },
  data_in_use: () => 'stop the other one, or name another folder with --data',
}

function described(error: unknown, asked: Asked): { code: string; detail: string } {
  const { message } = error as Error
  if (error instanceof Interrupted) return { code: 'interrupted', detail: message }
  if (!(error instanceof FleetError)) return { code: 'internal', detail: message }
  const hint = next[error.code]
  // A sentence with a semicolon gives its own advice.
  const detail = hint === undefined || message.includes(';') ? message : `${message.replace(/\.$/, '')}; ${hint(asked)}`
  return { code: error.code, detail }
}

/** What happened and its code, then what to type next where that is known; each line made safe for a terminal. */
function sentence(error: unknown, asked: Asked): string {
  const { code, detail } = described(error, asked)
  const text = detail.split('\n').map(visible).join('\n')
  if (error instanceof Interrupted) return text
  if (!(error instanceof FleetError)) return `${text} (FLEETGATE_DEBUG=1 shows where)`
  // Before the advice, so that a line to paste stands at the end.
  const [what = ''] = /^(?:(?!; ).)*/.exec(text) ?? []
  return `${what} (${code})${text.slice(what.length)}`
}

function causes(error: unknown): string {
  const { cause } = error as Error
  return cause instanceof Error ? `caused by ${cause.stack}\n${causes(cause)}` : ''
}
