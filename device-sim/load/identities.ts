/** Who takes part: ids and tokens from a file, and what is in the folder from the time before. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type DeviceId, isDeviceId, nameRule } from '../../contract/ids.ts'
import { FleetError, systemFault } from '../../runtime/errors.ts'
import { type EstClient, EstError } from '../est-client.ts'
import { certificateOf, enrollIdentity, type Identity, renewIdentity } from '../identity.ts'
import { readIdentity, writeIdentity } from '../identity-file.ts'
import { renewalTime } from '../unattended.ts'
import { LoadFailure } from './connection.ts'

export type Participant = { id: DeviceId; token?: string }

const ending = '.pem'
export const identityFile = (dir: string, id: DeviceId): string => join(dir, `${id}${ending}`)

/**
 * Lines of `device,token`, or under a heading that says which columns are `deviceId` and `token`, as
 * `fleetgate token create -o csv` prints it. Blank lines and further columns are passed over.
 *
 * @throws FleetError `config_invalid`
 */
export function parseTokens(text: string, file: string): Participant[] {
  const rows = text.split(/\r?\n/).map((line) => line.split(',').map((cell) => cell.trim().replace(/^"(.*)"$/, '$1')))
  const heading = rows[0]!
  const columns = [heading.findIndex((name) => /^device(Id)?$/.test(name)), heading.indexOf('token')]
  const isHeading = columns.every((column) => column >= 0)
  const [idAt, tokenAt] = isHeading ? columns : [0, 1]
  const found = new Map<string, Participant>()
  for (const [at, row] of rows.entries()) {
    if ((isHeading && at === 0) || row.join('') === '') continue
    const [id = '', token = ''] = [row[idAt!], row[tokenAt!]]
    const where = `${file}, line ${at + 1}`
    if (!isDeviceId(id)) throw invalid(`${where}: a device id is ${nameRule}`)
    if (token === '') throw invalid(`${where}: device,token is wanted`)
    if (found.has(id)) throw invalid(`${where}: ${id} stands twice`)
    found.set(id, { id, token })
  }
  return [...found.values()]
}

type Wanted = { dir: string; tokens?: string; devices?: number; subscribers: DeviceId[] }

/**
 * The subscribers by name, and the first devices that are left: of the file in its order, without one of the folder by name.
 *
 * @throws FleetError `config_invalid` where there are too few
 */
export function readParticipants({ dir, tokens, devices, subscribers }: Wanted): {
  publishers: Participant[]
  subscribers: Participant[]
} {
  const known = tokens === undefined ? participantsIn(dir) : parseTokens(readTokens(tokens), tokens)
  const source = tokens ?? dir
  const audience = subscribers.map((id) => {
    const participant = known.find((one) => one.id === id)
    if (participant !== undefined) return participant
    if (existsSync(identityFile(dir, id))) return { id }
    throw invalid(`--subscriber ${id} is not in ${source}`)
  })
  const others = known.filter(({ id }) => !subscribers.includes(id))
  const count = devices ?? others.length
  if (count === 0 || count > others.length) {
    const add = tokens === undefined ? '; --tokens FILE brings devices that have not enrolled yet' : ''
    throw invalid(`${source} has ${others.length} devices beside the subscribers, ${count || 'some'} are wanted${add}`)
  }
  return { publishers: others.slice(0, count), subscribers: audience }
}

/**
 * What the device has, renewed when it is time; without it, or where it has expired, one for the token.
 *
 * @throws LoadFailure
 */
export async function identityFor(
  { id, token }: Participant,
  dir: string,
  est: EstClient,
  now: Date,
): Promise<Identity> {
  const file = identityFile(dir, id)
  try {
    const kept = existsSync(file) ? readIdentity(file, est) : undefined
    const isGood = kept !== undefined && certificateOf(kept.certificatePem).notAfter > now
    if (isGood && renewalTime(kept.certificatePem, 0) > now.getTime()) return kept
    if (!isGood && token === undefined) throw new LoadFailure('enroll expired', `the certificate of ${id} has expired`)
    const identity = isGood ? await renewIdentity(est, kept) : await enrollIdentity(est, id, token!)
    writeIdentity(file, identity)
    return identity
  } catch (error) {
    if (error instanceof LoadFailure) throw error
    const { code, message } = error as Error & { code?: string }
    throw new LoadFailure(`enroll ${error instanceof EstError ? error.status : (code ?? 'failed')}`, message)
  }
}

function participantsIn(dir: string): Participant[] {
  if (!existsSync(dir)) return []
  const ids = readdirSync(dir).flatMap((name) => (name.endsWith(ending) ? [name.slice(0, -ending.length)] : []))
  return ids
    .filter(isDeviceId)
    .sort()
    .map((id) => ({ id }))
}

function readTokens(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (cause) {
    throw invalid(`--tokens: ${file} cannot be read: ${systemFault(cause)}`, cause)
  }
}

const invalid = (message: string, cause?: unknown): FleetError => new FleetError('config_invalid', message, { cause })
