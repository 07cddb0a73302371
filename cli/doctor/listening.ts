/** Who has a port that a gateway that is to start needs. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { splitAddress } from '../../runtime/config.ts'
import { checkPorts } from '../ports.ts'
import { type Finding, fail, ok } from './finding.ts'

export async function lookAtPorts(addresses: Record<string, string>): Promise<Finding[]> {
  const findings: Finding[] = []
  for (const [setting, address] of Object.entries(addresses)) {
    const { port } = splitAddress(address)
    if (port === 0) continue
    try {
      await checkPorts({ [setting]: address })
      findings.push(ok('ports', `${setting} ${address} is free`))
    } catch (error) {
      const holder = findHolder(port)
      const who = holder === undefined ? '' : `: ${holder.name}, process ${holder.pid}`
      const fix =
        holder === undefined ? `stop what uses it, or set ${setting}` : `kill ${holder.pid}, or set ${setting}`
      findings.push(fail('ports', `${(error as Error).message}${who}`, fix))
    }
  }
  return findings
}

const listening = '0A'

/** Of the processes that this user may look at; Linux alone tells. */
export function findHolder(port: number): { pid: number; name: string } | undefined {
  const inodes = new Set(['/proc/net/tcp', '/proc/net/tcp6'].flatMap((table) => socketsOn(port, table)))
  if (inodes.size === 0) return undefined
  for (const pid of entriesOf('/proc')) {
    if (!/^\d+$/.test(pid)) continue
    const isHolder = entriesOf(`/proc/${pid}/fd`).some((fd) => inodes.has(linkOf(`/proc/${pid}/fd/${fd}`)))
    if (isHolder) return { pid: Number(pid), name: textOf(`/proc/${pid}/comm`).trim() }
  }
  return undefined
}

/** Columns of proc_pid_net(5): local address with the port in hex, state, and tenth the inode. */
function socketsOn(port: number, table: string): string[] {
  const ending = `:${port.toString(16).toUpperCase().padStart(4, '0')}`
  return textOf(table)
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter((cells) => cells[1]?.endsWith(ending) && cells[3] === listening)
    .map((cells) => `socket:[${cells[9]}]`)
}

// A process may end while it is looked at, and others' processes tell nothing.
const orElse = <T>(read: () => T, otherwise: T): T => {
  try {
    return read()
  } catch {
    return otherwise
  }
}
const entriesOf = (path: string): string[] => orElse(() => readdirSync(path), [])
const linkOf = (path: string): string => orElse(() => readlinkSync(path), '')
const textOf = (path: string): string => orElse(() => readFileSync(path, 'utf8'), '')
