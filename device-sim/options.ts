import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { type DeviceId, isDeviceId, nameRule } from '../contract/ids.ts'
import { FleetError, systemFault } from '../runtime/errors.ts'

export type SimulatorOptions = {
  est: string
  mqtts: string
  rootFingerprint: string
  id: DeviceId
  token: string | undefined
  /** Read when it is needed, which is once in a device's life: by then it may be gone. */
  tokenFile: string | undefined
  /** Folder of the key and the certificate. */
  dir: string
  intervalMs: number
}

const usage =
  'usage: device-sim --est URL --mqtts URL --root-fingerprint HEX --device ID [--token TOKEN | --token-file FILE] [--dir DIR] [--interval-ms N]; ' +
  'each may come from the environment as DEVICE_SIM_EST, DEVICE_SIM_ROOT_FINGERPRINT ...; ' +
  'many devices: device-sim load --help'

const names = ['est', 'mqtts', 'root-fingerprint', 'device', 'token', 'token-file', 'dir', 'interval-ms'] as const
type Name = (typeof names)[number]

/** @throws FleetError `config_invalid` with how it is called */
export function readOptions(args: string[], env: NodeJS.ProcessEnv): SimulatorOptions {
  const values = flagsOf(args)
  const value = (name: Name): string | undefined =>
    values[name] ?? env[`DEVICE_SIM_${name.replaceAll('-', '_').toUpperCase()}`]
  const needed = (name: Name): string => {
    const given = value(name)
    if (given === undefined || given === '') throw invalid(`--${name} is missing; ${usage}`)
    return given
  }
  const id = needed('device')
  if (!isDeviceId(id)) throw invalid(`--device: a device id is ${nameRule}`)
  const intervalMs = Number(value('interval-ms') ?? 5_000)
  if (!(intervalMs >= 10)) throw invalid('--interval-ms: a number of 10 or more')
  const est = needed('est')
  const mqtts = needed('mqtts')
  const rootFingerprint = needed('root-fingerprint')
  if (!/^([0-9a-f]{2}:?){31}[0-9a-f]{2}$/i.test(rootFingerprint))
    throw invalid('--root-fingerprint: a SHA-256 is wanted, 64 hex digits with or without colons')
  return {
    est,
    mqtts,
    rootFingerprint,
    id,
    token: value('token'),
    tokenFile: value('token-file'),
    dir: value('dir') ?? '.',
    intervalMs,
  }
}

/** @throws FleetError `config_invalid` */
export function readToken(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch (cause) {
    throw invalid(`--token-file: ${path} cannot be read: ${systemFault(cause)}`, cause)
  }
}

function flagsOf(args: string[]): { [K in Name]?: string } {
  const options = Object.fromEntries(names.map((name) => [name, { type: 'string' as const }]))
  try {
    return parseArgs({ args, options }).values
  } catch (cause) {
    throw invalid(`${(cause as Error).message}; ${usage}`, cause)
  }
}

const invalid = (message: string, cause?: unknown): FleetError => new FleetError('config_invalid', message, { cause })
