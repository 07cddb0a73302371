import { existsSync } from 'node:fs'
import { relative } from 'node:path'
import { type Command, Option } from 'commander'
import { loadConfig } from '../../runtime/config.ts'
import { commandLine, type Endpoints, shellQuoted } from '../../runtime/endpoints.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { ServiceEvent } from '../child-service.ts'
import { aborted, type Io, settingsOf } from '../io.ts'
import { fields, milliseconds, styled } from '../output.ts'
import { startGateway } from '../supervisor.ts'
import { defaultConfig, examples, folderName } from './shared.ts'

export function addUp(program: Command, io: Io): void {
  examples(
    program.command('up'),
    'up',
    'up --config fleetgate.yaml --data /var/lib/fleetgate',
    'up --ports auto --data ./try',
  )
    .description('run the gateway: certificate authority, EST and MQTT broker')
    .option('--config <file>', 'configuration file (default: fleetgate.yaml where there is one)')
    .option(
      '--data <dir>',
      'data folder (default: FLEETGATE_DATA, else data: of the configuration, else ./data)',
      folderName,
    )
    .addOption(
      new Option('--ports <which>', 'ports to listen on').choices(['configured', 'auto']).default('configured'),
    )
    .action((options: UpOptions) => up(options, io))
}

type UpOptions = { config?: string; data?: string; ports: 'configured' | 'auto' }

async function up(options: UpOptions, io: Io): Promise<void> {
  const configFile = options.config ?? (existsSync(defaultConfig) ? defaultConfig : undefined)
  const env = settingsOf(io.env)
  // Read here first: a fault in it is told before anything is created.
  const config = loadConfig({ file: configFile, env })
  const dataDir = options.data ?? config.data
  const stop = io.untilSignal()
  const notify = (event: ServiceEvent): void => io.out(told(event, io.colour))
  let gateway: Awaited<ReturnType<typeof startGateway>>
  try {
    gateway = await startGateway({ config, configFile, dataDir, ports: options.ports, env, notify }, stop)
  } catch (error) {
    if (stop.aborted) return
    throw error
  }
  io.out(welcome(gateway.endpoints, dataDir, io.colour))
  io.onHangUp(() => {
    io.out('reading the configuration again; the log says what is in force\n')
    gateway.reload()
  })
  await aborted(stop)
  io.out('stopping ...\n')
  const unclean = await gateway.stop()
  if (unclean.length > 0) {
    throw new FleetError('internal', `${unclean.join(' and ')} did not stop cleanly; look at the log above`)
  }
  io.out('stopped\n')
}

export function told(event: ServiceEvent, colour: boolean): string {
  const name = event.name.padEnd(6)
  if (event.kind === 'ended') {
    return `${styled('red', '✘', colour)} ${name} ended unexpectedly (${event.how}); starting it again in ${event.restartInMs} ms\n`
  }
  const { est, admin } = event.endpoints
  const listeners = event.name === 'broker' ? Object.values(event.endpoints) : []
  const where = [est && `EST ${est}`, admin && `admin ${admin}`, ...listeners.map((url) => `MQTT ${url}`)]
    .filter(Boolean)
    .join('  ')
  return `${styled('green', '✔', colour)} ${name} is ${event.again ? 'back' : 'ready'} after ${milliseconds(event.ms)}  ${where}\n`
}

/** The lines to paste work as they stand, in any POSIX shell, with the ports and paths of this gateway. */
export function welcome(endpoints: Endpoints, dataDir: string, colour: boolean): string {
  const root = shellQuoted(shortest(endpoints.rootCertificate))
  const { hostname, port } = new URL(endpoints.mqtts)
  const enroll = `${estBase(endpoints.est)}/simpleenroll`
  const lines = [
    `TOKEN=$(${commandLine(['token', 'create', '--device', 'cam-1', '--profile', 'camera', '--quiet'], dataDir)})`,
    'openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out cam-1.key',
    'openssl req -new -key cam-1.key -subj /CN=cam-1 -outform DER | openssl base64 -A > cam-1.csr',
    `curl -sS --fail-with-body --cacert ${root} -u "cam-1:$TOKEN" -H 'Content-Type: application/pkcs10' --data-binary @cam-1.csr -o cam-1.p7 ${enroll}`,
    'openssl base64 -d -A -in cam-1.p7 | openssl pkcs7 -inform DER -print_certs -out cam-1.crt',
    `mosquitto_pub --cafile ${root} --cert cam-1.crt --key cam-1.key -h ${hostname} -p ${port} -i cam-1 -t devices/cam-1/telemetry/temp -m 21.5 -q 1`,
    commandLine(['device', 'revoke', 'cam-1', '--reason', 'keyCompromise'], dataDir),
  ]
  return [
    '\n',
    fields(
      [
        ['root SHA-256', endpoints.rootFingerprint],
        ['root certificate', shortest(endpoints.rootCertificate)],
      ],
      colour,
    ),
    '\nEnroll a first device, publish and revoke it (in another terminal, in this folder):\n\n',
    ...lines.map((line) => `  ${line}\n`),
    '\nCtrl-C stops the gateway.\n',
  ].join('')
}

export function estBase(est: string): string {
  const url = new URL(est)
  return `${url.origin}${url.pathname === '/' ? '/.well-known/est' : url.pathname.replace(/\/$/, '')}`
}

function shortest(path: string): string {
  const local = relative(process.cwd(), path)
  return local.length < path.length ? local : path
}
