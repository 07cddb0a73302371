import type { IncomingMessage } from 'node:http'
import { FleetError } from './errors.ts'

/** Headers that decide something here: of two, another reader may take the other one (RFC 9110 5.3, RFC 9112 3.2). */
const singular = new Set(['host', 'authorization', 'content-type'])

const absoluteForm = /^([a-z][a-z\d+.-]*):\/\/([^/?#]*)/i
const host = /^(?:\[[\da-f:.]+\]|[\w.~!$&'()*+,;=%-]*)(?::\d*)?$/i

/** Without the query, of a target in origin-form or absolute-form: a server takes both (RFC 9112 3.2.2). */
export function pathOf(target: string): string {
  return target.replace(absoluteForm, '').split('?', 1)[0] || '/'
}

/**
 * That the request says one thing to every reader, and is for this server.
 *
 * @param isOwnName whether this server vouches for a name or address with its certificate
 * @throws FleetError `request_malformed`, `misdirected`
 */
export function requireClear(message: IncomingMessage, isOwnName: (host: string) => boolean): void {
  const { rawHeaders, headers, url = '/' } = message
  const seen = new Set<string>()
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = rawHeaders[at]!.toLowerCase()
    if (seen.has(name) && singular.has(name)) throw malformed(`there are two ${name} headers`)
    seen.add(name)
  }
  // RFC 9112 3.2: 400 without a Host, which HTTP/1.0 did not have yet, and for one that is none.
  if (headers.host === undefined && message.httpVersion !== '1.0') throw malformed('there is no Host header')
  if (!host.test(headers.host ?? '')) throw malformed('the Host header is not a host')
  // RFC 9112 6.1: a coding that is not understood; the body would be taken for what it is not.
  const coding = headers['transfer-encoding']
  if (coding !== undefined && coding.toLowerCase() !== 'chunked') {
    throw malformed('a transfer coding other than chunked is not understood')
  }
  // RFC 9112 6.1: HTTP/1.0 has no codings; whoever put this one in front of it has framed it in two ways.
  if (coding !== undefined && message.httpVersion === '1.0') throw malformed('HTTP/1.0 has no Transfer-Encoding')
  const [, scheme, authority] = absoluteForm.exec(url) ?? []
  if (scheme === undefined || authority === undefined) return
  // RFC 9110 4.2.4: user information in front of a host hides which host it is.
  if (authority === '' || !host.test(authority)) throw malformed('the target of the request names no host')
  // RFC 9112 3.2.2: the authority of the target counts, whatever Host says; RFC 9110 7.4: one that is not ours is 421.
  const name = authority.replace(/:\d*$/, '').replace(/^\[(.*)\]$/, '$1')
  if (scheme.toLowerCase() !== 'https' || !isOwnName(name)) {
    throw new FleetError('misdirected', `this server does not answer for ${scheme}://${authority}`.slice(0, 200))
  }
}

const malformed = (sentence: string): FleetError => new FleetError('request_malformed', sentence)
