/** What a device has to be told to enroll with a token, in one line for a file or a QR code. */
import { type DeviceId, isDeviceId, isFingerprint } from './ids.ts'

export type EnrollmentCode = {
  /** EST service, with the path of a label where there is one */
  url: string
  /** SHA-256 of the root, lower-case hex */
  caFingerprint: string
  id: DeviceId
  token: string
}

const scheme = 'fleetgate:'
const maxLength = 2_000

/**
 * `fleetgate://ID:TOKEN@HOST:PORT/PATH?ca=SHA256`. The scheme is our own: a phone that reads one of https would open it, and
 * leave the token in the history of its browser.
 */
export function formatEnrollmentCode({ url, caFingerprint, id, token }: EnrollmentCode): string {
  const { host, pathname } = new URL(url)
  return `${scheme}//${encodeURIComponent(id)}:${encodeURIComponent(token)}@${host}${pathname}?ca=${caFingerprint}`
}

/** @returns undefined for a text of another form */
export function parseEnrollmentCode(text: string): EnrollmentCode | undefined {
  const parsed = text.length > maxLength ? null : URL.parse(text.trim())
  if (parsed?.protocol !== scheme || parsed.host === '') return undefined
  const { host, pathname, username, password, searchParams } = parsed
  const [id, token] = [decoded(username), decoded(password)]
  const caFingerprint = searchParams.get('ca') ?? ''
  if (!isDeviceId(id) || token === '' || !isFingerprint(caFingerprint)) return undefined
  const url = URL.parse(`https://${host}${pathname === '/' ? '' : pathname}`)
  return url === null ? undefined : { url: url.href.replace(/\/$/, ''), caFingerprint, id, token }
}

/** Empty for what was not encoded as it should be. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return ''
  }
}
