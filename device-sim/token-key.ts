/**
 * A key that stays in a PKCS#11 token. Node has no way to one: openssl signs with it and curl speaks TLS with it, both by
 * OpenSSL's engine `pkcs11`, which finds the module in PKCS11_MODULE_PATH.
 */
import { execFile } from 'node:child_process'
import { parsePem } from '../pki/certificate.ts'
import { FleetError } from '../runtime/errors.ts'
import { leafOf, operationUrl, refusalOf } from './est-client.ts'

/** Of two handshakes and a slow token. */
const timeoutMs = 60_000
const engine = ['-engine', 'pkcs11', '-keyform', 'engine']

/**
 * A request for a first certificate, DER.
 *
 * @param uri `pkcs11:…` (RFC 7512)
 * @throws FleetError `key_unavailable`
 */
export const requestWith = (uri: string, id: string): Promise<Buffer> =>
  openssl(uri, ['req', '-new', ...engine, '-key', uri, '-subj', `/CN=${id}`, '-outform', 'DER'])

/**
 * A certificate for the key of the one that there is: it cannot be exchanged as a file can.
 *
 * @param files of the root, and of the certificate with its chain
 * @returns the certificate as PEM
 * @throws FleetError `key_unavailable`; EstError
 */
export async function renewWith(uri: string, url: string, files: { root: string; chain: string }): Promise<string> {
  // As DER the certificate would stand behind it.
  const pem = (await openssl(uri, ['x509', '-x509toreq', '-in', files.chain, ...engine, '-signkey', uri])).toString()
  const [csr] = parsePem(pem, 'CERTIFICATE REQUEST')
  if (csr === undefined) throw new FleetError('key_unavailable', 'openssl made no certificate request')
  const operation = 'simplereenroll'
  const shown = ['--cacert', files.root, '--cert', files.chain, '--engine', 'pkcs11', '--key-type', 'ENG', '--key', uri]
  const sent = ['-H', 'Content-Type: application/pkcs10', '--data-binary', '@-', '-w', '\n%{http_code}']
  const to = operationUrl(url, operation).href
  // First: nothing of a .curlrc, which could switch off the check of the server.
  const args = [...['-q', '-sS', '--max-time', '30'], ...shown, ...sent, to]
  const answer = (await run(uri, 'curl', args, csr.toString('base64'))).toString('latin1').trimEnd()
  const end = answer.lastIndexOf('\n')
  const [text, status] = [answer.slice(0, end), Number(answer.slice(end + 1))]
  if (status !== 200) throw refusalOf(operation, { status, text, retryAfter: undefined })
  return leafOf(operation, text)
}

async function openssl(uri: string, args: string[]): Promise<Buffer> {
  try {
    return await run(uri, 'openssl', args)
  } catch (cause) {
    const why = (cause as Error).message
    throw new FleetError('key_unavailable', `openssl cannot use the key in the PKCS#11 token: ${why}`)
  }
}

function run(uri: string, program: string, args: string[], input?: string): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const options = { encoding: 'buffer' as const, timeout: timeoutMs, maxBuffer: 1_048_576 }
    const child = execFile(program, args, options, (error, out, err) => {
      if (error === null) return resolve(out)
      // Both print what the engine says of the URI, in which the PIN may stand.
      const first = err.toString().replaceAll(uri, 'it').trim().split('\n')[0]
      const said = first || `${program} ended with ${error.code ?? error.signal}`
      reject(new Error(error.code === 'ENOENT' ? `${program} is not installed` : said.slice(0, 500)))
    })
    child.stdin?.on('error', () => undefined).end(input)
  })
}
