import { type ProblemCode, problems } from '../contract/problems.ts'
import { EstError } from '../device-sim/est-client.ts'
import { FleetError } from '../runtime/errors.ts'

/** A call to the EST service: what it refuses, and that it cannot be reached, in the words of this command line. */
export async function estCall<T>(url: string, call: () => Promise<T>): Promise<T> {
  try {
    return await call()
  } catch (error) {
    throw inOurWords(url, error)
  }
}

function inOurWords(url: string, error: unknown): unknown {
  if (error instanceof FleetError) return error
  if (error instanceof EstError) {
    // `code: sentence (request id)` is how ours answers; another server may say anything.
    const [, code = '', sentence = ''] = /^([a-z_]+): (.*)$/s.exec(error.sentence) ?? []
    const known = Object.hasOwn(problems, code)
    const advice = code === 'unauthenticated' ? '; give its token with --token-file, or a --code' : ''
    return new FleetError(
      known ? (code as ProblemCode) : 'request_malformed',
      known ? sentence + advice : error.message,
      {
        cause: error,
        context: { refused: error.status < 500, status: error.status },
      },
    )
  }
  const { code = '', message } = error as NodeJS.ErrnoException
  if (/CERT|VERIFY|SIGNED|ISSUER|ERR_TLS/.test(code)) {
    const isOfTime = code === 'CERT_NOT_YET_VALID' || code === 'CERT_HAS_EXPIRED'
    const clock = isOfTime
      ? `; the clock of this machine says ${new Date().toISOString()}, set it if that is wrong`
      : ''
    const sentence = `${url} does not prove to be the gateway with the pinned root: ${message}${clock}`
    return new FleetError('gateway_untrusted', sentence, { cause: error })
  }
  return new FleetError('unavailable', `${url} cannot be reached: ${message}`, { cause: error })
}
