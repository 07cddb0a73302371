import { type Command, InvalidArgumentError } from 'commander'
import { isDeviceId, nameRule } from '../../contract/ids.ts'
import type { AdminClient } from '../admin-client.ts'
import { groupName, readLines } from './shared.ts'

/** Which devices are meant, when it is not one by its id. */
export type Selection = { group?: string; issuer?: string; file?: string[]; issuedBetween?: Between }
type Between = { issuedFrom: string; issuedTo: string }

export const selecting = (command: Command): Command =>
  command
    .option('--group <name>', 'all devices of this group', groupName)
    .option('--issuer <ca>', 'all with a certificate of this CA: fleetgate, its fingerprint, or the name of another')
    .option('--file <list>', 'all whose ids are in this file, one a line', readIds)
    .option('--issued-between <from..to>', 'all with a certificate that was issued then, the end not included', between)

export const isSelection = ({ group, issuer, file, issuedBetween }: Selection): boolean =>
  [group, issuer, file, issuedBetween].some((part) => part !== undefined)

/** Devices for which everything holds that is given, in id order. */
export async function selectDevices(client: AdminClient, selection: Selection): Promise<string[]> {
  const { group, issuer, file, issuedBetween } = selection
  const sets: Set<string>[] = []
  if (file !== undefined) sets.push(new Set(file))
  if (group !== undefined) sets.push(new Set((await client.listDevices({ group })).map(({ id }) => id)))
  if (issuer !== undefined || issuedBetween !== undefined) {
    const certificates = await client.listCertificates({ ...(issuer && { issuer }), ...issuedBetween })
    sets.push(new Set(certificates.flatMap(({ deviceId }) => deviceId ?? [])))
  }
  const [first = new Set(), ...rest] = sets
  return [...first].filter((id) => rest.every((set) => set.has(id))).toSorted()
}

/** A list, or what `device ls` or a spreadsheet gives: what stands behind a comma says nothing. */
function readIds(path: string): string[] {
  const ids = readLines(path).flatMap((line, at) => {
    if (/^\s*(#|$)/.test(line)) return []
    const id = line.split(',', 1)[0]!.trim()
    if (isDeviceId(id)) return [id]
    throw new InvalidArgumentError(`Line ${at + 1}: ${id.slice(0, 80)} is no device id (${nameRule}).`)
  })
  if (ids.length === 0) throw new InvalidArgumentError('There is no device id in it.')
  return ids
}

/** Two instants, or days, which begin at midnight UTC. */
function between(text: string): Between {
  const [from, to, ...more] = text.split('..').map((part) => new Date(part))
  const isRange = from !== undefined && to !== undefined && more.length === 0
  if (!isRange || Number.isNaN(from.getTime()) || Number.isNaN(to.getTime()) || from >= to) {
    throw new InvalidArgumentError('Give two days or instants, as in 2026-03-01..2026-03-08 (UTC).')
  }
  return { issuedFrom: from.toISOString(), issuedTo: to.toISOString() }
}
