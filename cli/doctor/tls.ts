/** What a listener really does when somebody comes: TLS version, suite, certificate and its chain, and what time it has. */
import { readFileSync } from 'node:fs'
import { request } from 'node:https'
import { connect, type TLSSocket } from 'node:tls'
import { parseCertificate } from '../../pki/certificate.ts'
import type { Endpoints } from '../../runtime/endpoints.ts'
import { type Finding, fail, ok, validity, warn } from './finding.ts'

const timeoutMs = 5_000
const skewMs = { warn: 2_000, fail: 60_000 }

export async function lookAtListeners(endpoints: Endpoints, now: Date): Promise<Finding[]> {
  const { est, mqtts, listeners = { mqtts } } = endpoints
  const encrypted = Object.entries({ est, ...listeners }).filter(([, url]) => /^(https|mqtts|wss):/.test(url))
  const ca = readFileSync(endpoints.rootCertificate, 'utf8')
  const findings = await Promise.all(encrypted.map(([name, url]) => lookAtListener(name, url, ca, now)))
  return findings.flat()
}

async function lookAtListener(name: string, url: string, ca: string, now: Date): Promise<Finding[]> {
  const check = `TLS of ${name}`
  const { hostname, port } = new URL(url)
  const host = hostname.replace(/^\[(.*)\]$/, '$1')
  let socket: TLSSocket
  try {
    socket = await handshake({ host, port: Number(port) || 443, ca })
  } catch (error) {
    const sentence = `${url} does not finish a handshake: ${(error as Error).message}`
    return [fail(check, sentence, 'look into the log of the gateway; behind a proxy, look there')]
  }
  try {
    const what = `${url} speaks ${socket.getProtocol()} with ${socket.getCipher().standardName}`
    const shown = socket.getPeerX509Certificate()
    const findings = [ok(check, `${what}; its chain ends at the root of this gateway`)]
    if (shown !== undefined)
      findings.push(validity(check, `the certificate of ${url}`, parseCertificate(shown.raw), now))
    return findings
  } finally {
    socket.destroy()
  }
}

function handshake(to: { host: string; port: number; ca: string }): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ ...to, timeout: timeoutMs }, () => resolve(socket))
    socket.once('timeout', () => socket.destroy(new Error(`nothing came in ${timeoutMs} ms`)))
    socket.on('error', reject)
  })
}

/** By the Date of an answer, which counts whole seconds. */
export async function lookAtClock(endpoints: Endpoints, clock: () => Date): Promise<Finding> {
  const before = clock().getTime()
  let date: string | undefined
  try {
    date = await dateOf(endpoints)
  } catch (error) {
    return fail('clock', `EST does not answer: ${(error as Error).message}`, 'look into the log of enroll')
  }
  const after = clock().getTime()
  return judgeClock(new Date(date ?? Number.NaN).getTime(), { before, after })
}

export function judgeClock(told: number, { before, after }: { before: number; after: number }): Finding {
  if (Number.isNaN(told)) return warn('clock', 'the answer of EST has no Date', 'update the gateway')
  const apart = Math.max(told - after, before - (told + 1_000), 0)
  const sentence =
    apart === 0
      ? 'this clock and that of enroll agree'
      : `this clock and that of enroll are ${Math.ceil(apart / 1_000)} s apart`
  const fix = 'have both machines follow NTP: certificates, tokens and revocations go by the clock'
  if (apart > skewMs.fail) return fail('clock', sentence, fix)
  return apart > skewMs.warn ? warn('clock', sentence, fix) : ok('clock', sentence)
}

function dateOf({ est, rootCertificate }: Endpoints): Promise<string | undefined> {
  const url = new URL('/.well-known/est/cacerts', est)
  return new Promise((resolve, reject) => {
    const sent = request(
      url,
      { ca: readFileSync(rootCertificate, 'utf8'), agent: false, timeout: timeoutMs },
      (answer) => {
        answer.resume()
        resolve(answer.headers.date)
      },
    )
    sent.on('timeout', () => sent.destroy(new Error(`nothing came in ${timeoutMs} ms`)))
    sent.on('error', reject)
    sent.end()
  })
}
