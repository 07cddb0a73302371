import { readFileSync } from 'node:fs'
import { z } from 'zod'
import { type Configuration, configuration } from '../contract/configuration.ts'
import { FleetError, systemFault } from './errors.ts'
import { childOf, keysOf, unwrap } from './schema.ts'
import { describeIssue, parseYaml, readYaml } from './yaml.ts'

const prefix = 'FLEETGATE_'
type Tree = { [key: string]: unknown }

/**
 * File, then environment, then flags, each over the one before.
 *
 * @param file  a YAML file, or undefined for the defaults alone
 * @param env   `FLEETGATE_BROKER__LISTEN=host:port` sets `broker.listen`; nesting by `__`, `_` and case as in the schema's key
 * @param flags `{ 'broker.listen': 'host:port' }`
 * @throws FleetError `config_invalid` with place, key and wanted range
 */
export const loadConfig = (input: ConfigInput): Configuration => readConfig(input).value

type ConfigInput = {
  file?: string | undefined
  env?: NodeJS.ProcessEnv
  flags?: Record<string, string | undefined>
}

/** As `loadConfig`, with where each setting is from: `file:line:column`, a variable, a flag, or `default`. */
export function readConfig(input: ConfigInput): { value: Configuration; sourceOf: (path: string[]) => string } {
  let tree: Tree = {}
  let placeOf = (_path: string[]): string => input.file ?? ''
  if (input.file !== undefined) {
    let text: string
    try {
      text = readFileSync(input.file, 'utf8')
    } catch (cause) {
      throw new FleetError('config_invalid', `${input.file} cannot be read: ${systemFault(cause)}`, { cause })
    }
    ;({ placeOf } = readYaml(text, configuration, input.file, 'config_invalid'))
    tree = parseYaml(text, z.looseObject({}), input.file, 'config_invalid')
  }
  const inFile = structuredClone(tree)
  const over = new Map<string, string>()
  for (const [name, value] of Object.entries(input.env ?? process.env)) {
    if (!name.startsWith(prefix) || value === undefined) continue
    over.set(setFromEnvironment(tree, name, value).join('.'), name)
  }
  for (const [path, value] of Object.entries(input.flags ?? {})) {
    if (value === undefined) continue
    put(tree, path.split('.'), value)
    over.set(path, 'flag')
  }
  const result = configuration.safeParse(tree)
  if (!result.success)
    throw new FleetError(
      'config_invalid',
      result.error.issues.map((issue) => describeIssue(issue, configuration)).join('\n'),
    )
  const sourceOf = (path: string[]): string =>
    over.get(path.join('.')) ?? (has(inFile, path) ? placeOf(path) : 'default')
  return { value: result.data, sourceOf }
}

function has(tree: unknown, path: string[]): boolean {
  let at = tree
  for (const key of path) {
    if (typeof at !== 'object' || at === null || !Object.hasOwn(at, key)) return false
    at = (at as Tree)[key]
  }
  return true
}

/** @returns the path of what was set */
function setFromEnvironment(tree: Tree, name: string, value: string): string[] {
  let shape: unknown = configuration
  const path: string[] = []
  for (const part of name.slice(prefix.length).split('__')) {
    const keys = keysOf(shape)
    const key = keys.find(
      (known) => known.replaceAll(/[A-Z]/g, '_$&').toUpperCase() === part || known.toUpperCase() === part,
    )
    if (key === undefined) {
      const known =
        keys.length > 0 ? `known here: ${keys.join(', ')}` : `${path.join('.')} is set as a whole, in the file`
      throw new FleetError('config_invalid', `${name}: no such setting; ${known}`)
    }
    path.push(key)
    shape = childOf(shape, key)
  }
  put(tree, path, fromText(value, unwrap(shape)))
  return path
}

/** What is not of the wanted form stays as it is, for the schema to refuse. */
function fromText(value: string, shape: unknown): unknown {
  if (shape instanceof z.ZodNumber && /^\d+$/.test(value)) return Number(value)
  if (shape instanceof z.ZodBoolean && /^(true|false)$/.test(value)) return value === 'true'
  if (shape instanceof z.ZodArray) return value.split(',').map((item) => item.trim())
  return value
}

function put(tree: Tree, path: string[], value: unknown): void {
  const last = path.at(-1)!
  let at = tree
  for (const key of path.slice(0, -1)) {
    at[key] ??= {}
    at = at[key] as Tree
  }
  at[last] = value
}

/** @returns host and port of a checked `host:port` */
export function splitAddress(address: string): { host: string; port: number } {
  const at = address.lastIndexOf(':')
  return { host: address.slice(0, at).replace(/^\[(.*)\]$/, '$1'), port: Number(address.slice(at + 1)) }
}

/** @returns `host:port`, with brackets around an IPv6 host */
export const joinAddress = (host: string, port: number): string => `${host.includes(':') ? `[${host}]` : host}:${port}`
