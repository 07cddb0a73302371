import { type DeviceId, isDeviceId } from '../../contract/ids.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { EdgeRequest } from '../../runtime/https.ts'
import type { Registry } from '../registry/registry.ts'
import { digestOf, findToken } from '../registry/tokens.ts'
import type { Voucher } from '../registry/vouchers.ts'

export type TokenProof = { kind: 'token'; deviceId: DeviceId; voucher: Voucher; expiresAt: string }

/**
 * HTTP Basic (RFC 7617) with the device id as username and the enrollment token as password (RFC 7030 3.2.3).
 * An unknown device and a wrong token are one answer after one look-up: nobody learns which device ids exist.
 *
 * @returns undefined when there is no usable header
 * @throws FleetError `token_invalid`
 */
export async function findTokenProof(
  registry: Registry,
  request: Pick<EdgeRequest, 'headers'>,
): Promise<TokenProof | undefined> {
  const credentials = findBasicCredentials(request)
  if (credentials === undefined) return undefined
  const { username, password } = credentials
  if (!isDeviceId(username)) throw tokenInvalid(username)
  const token = await findToken(registry, digestOf(password))
  if (token?.doc.deviceId !== username) throw tokenInvalid(username)
  const { doc, rev } = token
  return {
    kind: 'token',
    deviceId: username,
    voucher: { kind: 'token', id: doc.digest, doc, rev },
    expiresAt: doc.expiresAt,
  }
}

export const tokenInvalid = (deviceId: string): FleetError =>
  new FleetError('token_invalid', 'this token is not valid for this device id; ask the operator for a new one', {
    context: { deviceId: deviceId.slice(0, 64) },
  })

/** @throws FleetError `token_void`, `token_spent`, `token_expired` */
export function requireTokenFor({ deviceId, voucher, expiresAt }: TokenProof, spkiHash: string, now: Date): void {
  const context = { deviceId }
  const { status, spkiHash: boundTo } = voucher.doc
  if (status === 'void') throw new FleetError('token_void', 'this token was voided', { context })
  if (boundTo !== undefined && boundTo !== spkiHash) {
    throw new FleetError('token_spent', 'this token was used for another key', { context })
  }
  // A redemption that began in time may end late: the serial it reserved waits for it.
  if (status === 'unspent' && new Date(expiresAt) <= now) {
    throw new FleetError('token_expired', `this token expired at ${expiresAt}`, { context })
  }
}

/** @returns undefined when there is no Basic header, or none that can be read */
export function findBasicCredentials(
  request: Pick<EdgeRequest, 'headers'>,
): { username: string; password: string } | undefined {
  const found = /^basic +([A-Za-z0-9+/]+={0,2})$/i.exec(request.headers.authorization ?? '')
  if (found === null) return undefined
  const text = Buffer.from(found[1]!, 'base64').toString('utf8')
  const colon = text.indexOf(':')
  return colon < 0 ? undefined : { username: text.slice(0, colon), password: text.slice(colon + 1) }
}
