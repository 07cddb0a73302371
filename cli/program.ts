import { Command, CommanderError } from 'commander'
import type { ProblemCode } from '../contract/problems.ts'
import manifest from '../package.json' with { type: 'json' }
import { exitCodeOf, FleetError } from '../runtime/errors.ts'
import { addAudit } from './commands/audit.ts'
import { addCert } from './commands/cert.ts'
import { addDemo } from './commands/demo.ts'
import { addDevice } from './commands/device.ts'
import { addPolicy } from './commands/policy.ts'
import { addStatus } from './commands/status.ts'
import { addToken } from './commands/token.ts'
import { addUp } from './commands/up.ts'
import { type Io, isDebugging } from './io.ts'
import { visible } from './output.ts'

/**
 * @param argv what stands behind `fleetgate`
 * @returns the exit code: 0 ok, 1 failure, 2 usage or set-up, 3 refused (the gateway answered 4xx, or a check said no)
 */
export async function run(argv: string[], io: Io): Promise<number> {
  try {
    await createProgram(io).parseAsync(argv, { from: 'user' })
    return 0
  } catch (error) {
    // Commander has said it already; its own exit code for every fault is 1.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
    io.err(`error: ${sentence(error)}\n`)
    if (isDebugging(io.env)) io.err(`${(error as Error).stack ?? ''}\n${causes(error)}`)
    return exitCode(error)
  }
}

function createProgram(io: Io): Command {
  const program = new Command('fleetgate')
    .description('Gets fleets of devices safely online: enrollment over EST, MQTT over mutual TLS, instant revocation.')
    .version(manifest.version)
    .exitOverride()
    .configureOutput({
      writeOut: io.out,
      writeErr: io.err,
      getOutHasColors: () => io.colour,
      getErrHasColors: () => io.colour,
    })
    .showHelpAfterError('(add --help for what is possible)')
    .addHelpText('after', '\nExit codes: 0 ok, 1 failure, 2 usage or set-up, 3 refused.\n')
  for (const add of [addUp, addDemo, addDevice, addToken, addPolicy, addCert, addAudit, addStatus]) add(program, io)
  return program
}

function exitCode(error: unknown): number {
  return error instanceof FleetError && error.context.refused === true ? 3 : exitCodeOf(error)
}

const next: Partial<Record<ProblemCode, string>> = {
  device_unknown: 'see which there are: fleetgate device ls',
  device_exists: 'see it: fleetgate device ls',
  certificate_unknown: 'see which there are: fleetgate cert ls',
  port_in_use: 'stop what uses it, configure another, or take free ones: fleetgate up --ports auto',
  data_in_use: 'stop the other one, or take another folder: fleetgate up --data DIR',
}

/** What happened, and what to type next where that is known; each line of a longer one made safe for a terminal. */
function sentence(error: unknown): string {
  if (!(error instanceof FleetError)) return `${visible((error as Error).message)} (FLEETGATE_DEBUG=1 shows where)`
  const text = error.message.split('\n').map(visible).join('\n')
  const hint = next[error.code]
  // A sentence with a semicolon gives its own advice.
  return hint === undefined || text.includes(';') ? text : `${text.replace(/\.$/, '')}; ${hint}`
}

function causes(error: unknown): string {
  const { cause } = error as Error
  return cause instanceof Error ? `caused by ${cause.stack}\n${causes(cause)}` : ''
}
