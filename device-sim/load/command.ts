import { availableParallelism } from 'node:os'
import { SingleBar } from 'cli-progress'
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { type DeviceId, isDeviceId, nameRule } from '../../contract/ids.ts'
import { defaultDataDir, readEndpoints } from '../../runtime/endpoints.ts'
import { exitCodeOf, FleetError } from '../../runtime/errors.ts'
import { writeFileAtomic } from '../../runtime/files.ts'
import { htmlReport } from './html.ts'
import { type LoadOptions, runLoad, type Watcher } from './load.ts'
import { leastPayloadBytes } from './message.ts'
import type { LoadReport } from './report.ts'
import { terminalReport } from './terminal.ts'

type Where = Pick<LoadOptions, 'est' | 'mqtts' | 'rootFingerprint'>
type Options = Partial<Where> &
  Omit<LoadOptions, keyof Where> & { data: string; out?: string; output: 'table' | 'json' }

/** One address has about 28,000 ports for connections of its own (Linux, net.ipv4.ip_local_port_range). */
const maxDevices = 25_000
/** What each second was like is kept until the report. */
const maxSeconds = 3_600
// npm passes on what the terminal has sent to its whole group, so one Ctrl-C may arrive several times.
const oneCtrlCMs = 250

const examples = `
The devices and their one-time tokens come from a file with lines of "device,token", or as "fleetgate token create -o csv"
prints them. A subscriber is one of them whose policy lets it hear devices/+/telemetry/load, under the starter policy one of
the profile service; each of the others publishes there under its own name.

Examples:
  # the first run enrolls the devices and keeps their keys and certificates in ./load-devices
  device-sim load --tokens tokens.csv --subscriber app-1 --devices 5000
  # the next one needs no tokens
  device-sim load --subscriber app-1 --devices 5000 --messages 5000 --qos 1 --out load.html
  # a gateway on another machine
  device-sim load --subscriber app-1 --est https://gateway:8443 --mqtts mqtts://gateway:8883 --root-fingerprint 3f...a9

Exit codes: 0 everybody connected and everything arrived, 1 not so, 2 usage or set-up.
`

/**
 * @param args what stands behind `load`
 * @returns the exit code
 */
export async function load(args: string[]): Promise<number> {
  const command = programOf()
  try {
    command.parse(args, { from: 'user' })
    const options = command.opts<Options>()
    const report = await watched({ ...options, ...whereOf(options) })
    if (options.out !== undefined) writeFileAtomic(options.out, htmlReport(report))
    process.stdout.write(options.output === 'json' ? `${JSON.stringify(report, null, 2)}\n` : terminalReport(report))
    return report.ok ? 0 : 1
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
    if (!(error instanceof FleetError)) throw error
    process.stderr.write(`error: ${error.message}\n`)
    return exitCodeOf(error)
  }
}

async function watched(options: LoadOptions): Promise<LoadReport> {
  using progress = new Progress()
  return await runLoad(options, progress.show, untilSignal())
}

function programOf(): Command {
  const version = new Option('--version <version>', 'of MQTT').choices(['3.1.1', '5']).default('3.1.1')
  const qos = new Option('--qos <qos>', 'of the messages and of the subscription').choices(['0', '1', '2'])
  return new Command('device-sim load')
    .description('has many devices connect and publish, and says how that went: rates, latency end to end, failures')
    .requiredOption('--subscriber <id>', 'device that hears all others (required, may be repeated)', subscribers)
    .option('--devices <number>', 'that publish (default: all that there are)', integer(1, maxDevices))
    .option('--tokens <file>', 'lines of "device,token", for those that have no certificate yet')
    .option('--dir <folder>', 'where their keys and certificates are kept', './load-devices')
    .option('--rate <number>', 'connections begun in a second', amount(0.1, 10_000), 100)
    .option('--messages <number>', 'in a second, of all devices together', amount(0, 1_000_000), 1_000)
    .option('--seconds <number>', 'how long they publish', amount(0.1, maxSeconds), 30)
    .addOption(
      qos.argParser((text) => (/^[012]$/.test(text) ? Number(text) : fault('0, 1 or 2 is wanted.'))).default(0),
    )
    .option('--payload <octets>', 'of a message', integer(leastPayloadBytes, 262_144), 128)
    .addOption(version)
    .option('--processes <number>', 'that the devices are in', integer(1, 64), Math.min(4, availableParallelism()))
    .option('--data <folder>', 'of a gateway on this machine', defaultDataDir)
    .option('--est <url>', 'in place of --data, with the next two')
    .option('--mqtts <url>', 'mqtts://host:port')
    .option('--root-fingerprint <hex>', 'SHA-256 of the root certificate')
    .addOption(new Option('-o, --output <format>', 'of what is printed').choices(['table', 'json']).default('table'))
    .option('--out <file>', 'the report as one HTML file too')
    .helpOption('-h, --help', 'what is possible')
    .addHelpText('after', examples)
    .allowExcessArguments(false)
    .showHelpAfterError('(add --help for what is possible)')
    .exitOverride()
}

function whereOf({ est, mqtts, rootFingerprint, data }: Options): Where {
  const given = [est, mqtts, rootFingerprint].filter((value) => value !== undefined)
  if (given.length === 0) return readEndpoints(data)
  if (est !== undefined && mqtts !== undefined && rootFingerprint !== undefined) return { est, mqtts, rootFingerprint }
  throw new FleetError('config_invalid', '--est, --mqtts and --root-fingerprint belong together')
}

/** Aborts at the first Ctrl-C; the next one ends the process. */
function untilSignal(): AbortSignal {
  const stop = new AbortController()
  let firstAt = 0
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      if (!stop.signal.aborted) firstAt = performance.now()
      else if (performance.now() - firstAt > oneCtrlCMs) process.exit(1)
      stop.abort()
    })
  }
  return stop.signal
}

/** A bar for each phase, where a terminal shows it. */
class Progress implements Disposable {
  #bar: SingleBar | undefined
  #phase = ''

  show: Watcher = (phase, done, of) => {
    if (!process.stderr.isTTY) return
    if (phase !== this.#phase) {
      this.#bar?.stop()
      this.#bar = new SingleBar({ format: `  ${phase} {bar} {value}/{total}`, clearOnComplete: true, hideCursor: true })
      this.#bar.start(of, 0)
      this.#phase = phase
    }
    this.#bar!.update(done)
  };

  [Symbol.dispose](): void {
    this.#bar?.stop()
  }
}

function subscribers(text: string, before: DeviceId[] = []): DeviceId[] {
  if (!isDeviceId(text)) return fault(`A device id is ${nameRule}.`)
  return before.includes(text) ? before : [...before, text]
}

const amount =
  (least: number, most: number) =>
  (text: string): number => {
    const value = text.trim() === '' ? Number.NaN : Number(text)
    return value >= least && value <= most ? value : fault(`A number from ${least} to ${most} is wanted.`)
  }

const integer =
  (least: number, most: number) =>
  (text: string): number => {
    const value = amount(least, most)(text)
    return Number.isInteger(value) ? value : fault('A whole number is wanted.')
  }

function fault(message: string): never {
  throw new InvalidArgumentError(message)
}
