/** Passwords as argon2id hashes in the PHC string form, and files of them by device. */
import { argon2, timingSafeEqual } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { FleetError, systemFault } from './errors.ts'

export type PasswordHash = { memoryKiB: number; passes: number; parallelism: number; salt: Buffer; tag: Buffer }
type Cost = Pick<PasswordHash, 'memoryKiB' | 'passes' | 'parallelism'>

/** RFC 9106 leaves the cost to us; this is what OWASP advises, some 20 MiB and tens of milliseconds. */
export const usualCost: Cost = { memoryKiB: 19_456, passes: 2, parallelism: 1 }
export const saltBytes = 16
export const maxPasswordBytes = 1_024
const tagBytes = 32
const maxFileBytes = 16_777_216

const form = /^\$argon2id\$v=19\$m=(\d{1,7}),t=(\d{1,2}),p=(\d)\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})$/

/** @returns undefined for another form, and for a cost that would be a weapon against who checks it */
export function parsePasswordHash(text: string): PasswordHash | undefined {
  const found = form.exec(text)
  if (found === null) return undefined
  const [memoryKiB, passes, parallelism] = found.slice(1, 4).map(Number) as [number, number, number]
  const isBounded = memoryKiB <= 262_144 && passes >= 1 && passes <= 10 && parallelism >= 1 && parallelism <= 4
  if (!isBounded || memoryKiB < 8 * parallelism) return undefined
  return {
    memoryKiB,
    passes,
    parallelism,
    salt: Buffer.from(found[4]!, 'base64'),
    tag: Buffer.from(found[5]!, 'base64'),
  }
}

const base64 = (bytes: Buffer): string => bytes.toString('base64').replaceAll('=', '')

/** @param salt `saltBytes` random octets */
export async function hashPassword(password: Buffer, salt: Buffer): Promise<string> {
  const { memoryKiB, passes, parallelism } = usualCost
  const tag = await derive(password, { ...usualCost, salt, tag: Buffer.alloc(tagBytes) })
  return `$argon2id$v=19$m=${memoryKiB},t=${passes},p=${parallelism}$${base64(salt)}$${base64(tag)}`
}

export async function isPassword(hash: PasswordHash, password: Buffer): Promise<boolean> {
  return timingSafeEqual(await derive(password, hash), hash.tag)
}

function derive(message: Buffer, { memoryKiB, passes, parallelism, salt, tag }: PasswordHash): Promise<Buffer> {
  const parameters = { message, nonce: salt, memory: memoryKiB, passes, parallelism, tagLength: tag.length }
  return new Promise((resolve, reject) => {
    argon2('argon2id', parameters, (error, derived) => (error ? reject(error) : resolve(derived)))
  })
}

/** Lines of `device:hash`; empty lines and those that begin with `#` are for people. @throws FleetError `config_invalid` */
export function readPasswordFile(path: string): Map<string, PasswordHash> {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (cause) {
    throw new FleetError('config_invalid', `${path} cannot be read: ${systemFault(cause)}`, { cause })
  }
  if (text.length > maxFileBytes)
    throw new FleetError('config_invalid', `${path} is larger than ${maxFileBytes} octets`)
  const hashes = new Map<string, PasswordHash>()
  for (const [at, line] of text.split(/\r?\n/).entries()) {
    if (line === '' || line.startsWith('#')) continue
    const colon = line.indexOf(':')
    const id = line.slice(0, colon)
    const hash = parsePasswordHash(line.slice(colon + 1))
    const fault =
      colon < 1 || hash === undefined
        ? 'device:$argon2id$… is wanted, as `fleetgate broker passwd` writes it'
        : hashes.has(id)
          ? `${id} stands twice`
          : undefined
    if (fault !== undefined || hash === undefined) throw new FleetError('config_invalid', `${path}:${at + 1}: ${fault}`)
    hashes.set(id, hash)
  }
  return hashes
}
