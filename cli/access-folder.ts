/** A folder that is handed to somebody who is to use the admin API: `--data` names it, wherever it is put. */
import { existsSync, readFileSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { InvalidArgumentError, Option } from 'commander'
import { type Role, roles } from '../contract/operator-api.ts'
import { changeEndpoints, commandLine, type Endpoints, readEndpoints, writeEndpoints } from '../runtime/endpoints.ts'
import { FleetError, systemFault } from '../runtime/errors.ts'
import { writeFileAtomic } from '../runtime/files.ts'

type Credential = Pick<Endpoints, 'operatorCertificate' | 'operatorKey' | 'apiTokenFile'>

/**
 * What there is to be known of the gateway, for a credential that is in the folder already.
 *
 * @param own of this machine
 */
export function writeAccess(
  folder: string,
  own: Endpoints,
  { url, ...credential }: Credential & { url: string | undefined },
): void {
  writeFileAtomic(join(folder, 'root.crt'), readText(own.rootCertificate))
  const {
    operatorCertificate: _crt,
    operatorKey: _key,
    operatorKeyPassphraseFile: _pass,
    apiTokenFile: _token,
    ...rest
  } = own
  writeEndpoints(folder, { ...rest, admin: url ?? own.admin, rootCertificate: 'root.crt', ...credential })
}

/**
 * Puts another key and certificate in the place of those that a folder has. They get names of their own, and one rename of
 * `endpoints.json` is the change: killed at any place, the folder names a pair that belongs together.
 */
export function replaceAccess(folder: string, { key, certificate }: { key: string; certificate: string }): void {
  const former = ['operator', 'operator-2']
  const { operatorKey } = readEndpoints(folder)
  const [stem = '', old = ''] = operatorKey === resolve(folder, 'operator-2.key') ? former : former.toReversed()
  writeFileAtomic(join(folder, `${stem}.key`), key, 0o600)
  writeFileAtomic(join(folder, `${stem}.crt`), certificate)
  changeEndpoints(folder, { operatorKey: `${stem}.key`, operatorCertificate: `${stem}.crt` })
  for (const end of ['key', 'crt']) rmSync(join(folder, `${old}.${end}`), { force: true })
}

/** Enroll renews what is in a data folder of its own. */
export const isOfGateway = (folder: string): boolean => existsSync(join(folder, 'enroll'))

export const howToUse = (folder: string): string => `use it: ${commandLine(['status'], folder)}\n`

export const roleOption = (): Option =>
  new Option('--role <role>', 'what they may (required)').choices(roles).makeOptionMandatory()

export function roleName(text: string): Role {
  const role = roles.find((one) => one === text)
  if (role !== undefined) return role
  throw new InvalidArgumentError(`Allowed choices are ${roles.join(', ')}.`)
}

export function accessUrl(text: string): string {
  if (URL.parse(text)?.protocol === 'https:') return text
  throw new InvalidArgumentError('Give a URL such as https://gateway.example:9443.')
}

export function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (cause) {
    throw new FleetError('data_damaged', `${path} cannot be read: ${systemFault(cause)}`, { cause })
  }
}
