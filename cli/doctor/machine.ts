/** What a gateway stands on: Node, open files, the data folder and the keys in it. Needs none that runs. */
import { accessSync, constants, existsSync, lstatSync, readdirSync, readFileSync, statfsSync, statSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import type { Configuration } from '../../contract/configuration.ts'
import { parseCertificate, parsePem } from '../../pki/certificate.ts'
import { commandLine, shellQuoted } from '../../runtime/endpoints.ts'
import { type FleetError, systemFault } from '../../runtime/errors.ts'
import { requireFolder } from '../../runtime/files.ts'
import { isOfGateway } from '../access-folder.ts'
import { type Finding, fail, ok, validity, warn } from './finding.ts'

const leastNode = 24
const mebibyte = 1024 * 1024
const leastBytes = 64 * mebibyte
const fewBytes = 1024 * mebibyte
// What a service has open beside its connections: logs, the store, other services.
const spareFiles = 256

export function lookAtNode(version: string): Finding {
  const [major = ''] = version.replace(/^v/, '').split('.')
  if (Number(major) >= leastNode) return ok('node', `Node ${version}`)
  return fail('node', `Node ${version}; ${leastNode} or later is wanted`, `install Node ${leastNode}`)
}

/** @param limits text of Linux' /proc/self/limits */
export function lookAtOpenFiles(limits: string, { broker }: Configuration): Finding {
  const [, limit = ''] = /^Max open files\s+(\S+)/m.exec(limits) ?? []
  const wanted = broker.maxConnections * (1 + broker.listeners.length) + spareFiles
  const files = limit === 'unlimited' ? Number.POSITIVE_INFINITY : Number(limit)
  if (files >= wanted) return ok('open files', `${limit} may be open`)
  return warn(
    'open files',
    `${limit} may be open, and broker.maxConnections allows for ${wanted}`,
    `ulimit -n ${wanted} before \`fleetgate up\`, or LimitNOFILE=${wanted} in its unit`,
  )
}

export function lookAtFolder(dataDir: string): Finding[] {
  const check = 'data folder'
  let stat: ReturnType<typeof statSync>
  try {
    stat = statSync(dataDir)
    if (!stat.isDirectory()) return [fail(check, `${dataDir} is no folder`, 'name another with --data')]
    accessSync(dataDir, constants.R_OK | constants.W_OK | constants.X_OK)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') return [lookAbove(dataDir)]
    return [fail(check, `${dataDir} cannot be used: ${systemFault(error)}`, 'be the user that runs the gateway')]
  }
  const findings: Finding[] = []
  const own = process.getuid?.()
  if (own !== undefined && stat.uid !== own && own !== 0) {
    const sentence = `${dataDir} belongs to the user ${stat.uid}, and this is ${own}`
    findings.push(warn(check, sentence, 'be the user that runs the gateway'))
  }
  if ((stat.mode & 0o022) !== 0) {
    const sentence = `others may write to ${dataDir} (mode ${modeOf(stat.mode)})`
    findings.push(fail(check, sentence, `chmod go-w ${shellQuoted(dataDir)}`))
  }
  if (findings.length === 0) findings.push(ok(check, `${dataDir} can be read and written`))
  const { bavail, bsize } = statfsSync(dataDir)
  return [...findings, lookAtDisk(bavail * bsize, dataDir)]
}

function lookAbove(dataDir: string): Finding {
  let above = dirname(resolve(dataDir))
  while (!existsSync(above)) above = dirname(above)
  try {
    requireFolder(above)
    return warn('data folder', `there is no ${dataDir}`, 'the first `fleetgate up` makes it')
  } catch (error) {
    const sentence = `there is no ${dataDir}, and it cannot be made: ${systemFault((error as FleetError).cause)}`
    return fail('data folder', sentence, 'name another with --data, or be a user who may')
  }
}

export function lookAtDisk(freeBytes: number, dataDir: string): Finding {
  const sentence = `${Math.floor(freeBytes / mebibyte)} MiB are free at ${dataDir}`
  const fix = 'make room: nothing is issued or revoked on a full disk'
  if (freeBytes < leastBytes) return fail('disk', sentence, fix)
  return freeBytes < fewBytes ? warn('disk', sentence, fix) : ok('disk', sentence)
}

/** Private keys by their names, and the passphrase: nobody but their owner may read them. */
export function lookAtKeys(dataDir: string, passphraseFile: string | undefined): Finding[] {
  const keys = filesBelow(dataDir).filter((path) => path.endsWith('.key'))
  const secrets = passphraseFile === undefined ? keys : [...keys, passphraseFile]
  const open = secrets.flatMap((path): Finding[] => {
    try {
      const { mode } = lstatSync(path)
      if ((mode & 0o077) === 0) return []
      const sentence = `others can read ${path} (mode ${modeOf(mode)})`
      return [fail('keys', sentence, `chmod 600 ${shellQuoted(path)}`)]
    } catch (error) {
      return [fail('keys', (error as Error).message, 'restore it, or correct keys.passphraseFile')]
    }
  })
  return open.length > 0 ? open : [ok('keys', `${secrets.length} are readable by their owner alone`)]
}

/** Those that the gateway has for itself, or an operator in a folder that was handed over. */
export function lookAtCertificates(dataDir: string, now: Date): Finding[] {
  const renew = commandLine(['operator', 'renew'], dataDir)
  const fix = isOfGateway(dataDir)
    ? undefined
    : { expiring: renew, expired: 'an admin gives you another: fleetgate operator renew NAME --out DIR' }
  // Those of the CAs are renewed by nobody; a gateway that runs tells when they end.
  const paths = filesBelow(dataDir).filter(
    (path) => path.endsWith('.crt') && !path.includes('.tmp') && !path.startsWith(join(dataDir, 'enroll', 'ca')),
  )
  return paths.flatMap((path): Finding[] => {
    try {
      return parsePem(readFileSync(path, 'utf8'), 'CERTIFICATE')
        .slice(0, 1)
        .map((der) => validity('certificates', path, parseCertificate(der), now, fix))
    } catch (error) {
      const sentence = `${path} cannot be read: ${systemFault(error)}`
      return [fail('certificates', sentence, 'restore it from a backup')]
    }
  })
}

/** Keys and certificates lie no deeper than this, and the stores, which are large, have none. */
function filesBelow(folder: string, depth = 3): string[] {
  let entries: ReturnType<typeof list>
  try {
    entries = list(folder)
  } catch {
    return []
  }
  return entries.flatMap((entry) => {
    const path = join(folder, entry.name)
    if (entry.isFile()) return [path]
    return entry.isDirectory() && depth > 1 ? filesBelow(path, depth - 1) : []
  })
}

const list = (folder: string) => readdirSync(folder, { withFileTypes: true })
const modeOf = (mode: number): string => (mode & 0o777).toString(8).padStart(4, '0')
