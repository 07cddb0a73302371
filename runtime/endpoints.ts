import { readFileSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { z } from 'zod'
import { FleetError } from './errors.ts'
import { writeFileAtomic } from './files.ts'

/** `DATA/endpoints.json`: where the running gateway is. It holds addresses and paths, no secret. */
const endpoints = z.object({
  est: z.url(),
  mqtts: z.url(),
  listeners: z.record(z.string(), z.url()).optional().describe('Of the broker, by name'),
  admin: z.url(),
  status: z.url().optional().describe('Revocation lists and OCSP, where they are served'),
  rootFingerprint: z.string().describe('SHA-256 of the root certificate, hex'),
  rootCertificate: z.string(),
  operatorCertificate: z.string().optional(),
  operatorKey: z.string().optional(),
  operatorKeyPassphraseFile: z.string().optional(),
  apiTokenFile: z.string().optional().describe('In place of certificate and key'),
})
export type Endpoints = z.output<typeof endpoints>

export const endpointsFile = (dataDir: string): string => join(dataDir, 'endpoints.json')

export const writeEndpoints = (dataDir: string, content: Endpoints): void =>
  writeFileAtomic(endpointsFile(dataDir), `${JSON.stringify(content, null, 2)}\n`)

/** Paths stay as they are written: those of the folder, or absolute. */
export function changeEndpoints(dataDir: string, change: Partial<Endpoints>): void {
  const content = endpoints.parse(JSON.parse(readFileSync(endpointsFile(dataDir), 'utf8')))
  writeEndpoints(dataDir, { ...content, ...change })
}

export const removeEndpoints = (dataDir: string): void => rmSync(endpointsFile(dataDir), { force: true })

/** @throws FleetError `unavailable` when no gateway runs on `dataDir`, `data_damaged` when that cannot be told */
export function readEndpoints(dataDir: string): Endpoints {
  const file = endpointsFile(dataDir)
  const start = commandLine(['up'], dataDir)
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException
    if (code === 'EACCES' || code === 'EPERM')
      throw new FleetError('data_damaged', `${file} cannot be read by this user; be the user that runs the gateway`, {
        cause,
      })
    if (code !== 'ENOENT' && code !== 'ENOTDIR')
      throw new FleetError('data_damaged', `${file} cannot be read: ${message}`, { cause })
    throw new FleetError('unavailable', `No gateway runs on ${dataDir} (there is no ${file}); start it: ${start}`, {
      cause,
    })
  }
  try {
    return located(endpoints.parse(JSON.parse(text)), dataDir)
  } catch (cause) {
    throw new FleetError('data_damaged', `${file} is not what a gateway writes; restart it: ${start}`, { cause })
  }
}

/** Paths that are not absolute are of the folder: one that is handed to an operator works wherever it is put. */
function located(found: Endpoints, dataDir: string): Endpoints {
  const paths = [
    'rootCertificate',
    'operatorCertificate',
    'operatorKey',
    'operatorKeyPassphraseFile',
    'apiTokenFile',
  ] as const
  const given = paths.flatMap((name) => (found[name] === undefined ? [] : [[name, resolve(dataDir, found[name])]]))
  return { ...found, ...Object.fromEntries(given) }
}

export const defaultDataDir = './data'

/** A command to paste as it stands into a POSIX shell, about the data folder that the operator works with. */
export function commandLine(words: string[], dataDir: string): string {
  const data = dataDir === defaultDataDir ? [] : ['--data', dataDir]
  return ['npx', 'fleetgate', ...words, ...data].map(shellQuoted).join(' ')
}

export const shellQuoted = (word: string): string =>
  /^[\w./@%+=:,-]+$/.test(word) ? word : `'${word.replaceAll("'", String.raw`'\''`)}'`
