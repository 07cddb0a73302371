import { isAscii } from 'node:buffer'
import type { DeviceId } from '../contract/ids.ts'
import {
  type DerElement,
  DerError,
  type DerReader,
  element,
  oid,
  readDer,
  sequence,
  setOf,
  tags,
  utf8String,
} from './der.ts'
import { oids } from './oids.ts'

/**
 * One attribute of a name. `value` is text only where the bytes are what their string type says; anything else (T61, BMP,
 * Universal, invalid UTF-8, not a string) has the encoding `other` and `#` with the value's DER in hex, so that different
 * bytes can never read as the same text.
 */
export type NameAttribute = { oid: string; value: string; encoding: 'utf8' | 'printable' | 'ia5' | 'other' }
/** `rdns` in the order of the bytes; an inner list longer than one is a multi-valued RDN. */
export type DistinguishedName = { der: Buffer; rdns: NameAttribute[][] }

const maxNameBytes = 8_192
const maxAttributes = 100
// A byte-order mark is kept: it is a character of the value.
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** @throws DerError */
export const parseName = (der: Uint8Array): DistinguishedName => readName(Buffer.from(der))

/**
 * The name keeps the octets, and all that they are a part of.
 *
 * @throws DerError
 */
export function readName(der: Buffer): DistinguishedName {
  const sets = readDer(der, maxNameBytes).enter()
  const rdns: NameAttribute[][] = []
  let count = 0
  while (!sets.done) {
    const set = sets.enter(tags.set)
    const rdn: NameAttribute[] = []
    while (!set.done) {
      if (++count > maxAttributes) throw new DerError(`a name of more than ${maxAttributes} attributes`)
      rdn.push(readAttribute(set.enter()))
    }
    if (rdn.length === 0) throw new DerError('a name with an empty RDN')
    rdns.push(rdn)
  }
  return { der, rdns }
}

function readAttribute(reader: DerReader): NameAttribute {
  const type = reader.oid()
  const value = reader.next()
  reader.end()
  return { oid: type, ...decodeValue(value) }
}

export function decodeValue({ tag, content, der }: DerElement): Omit<NameAttribute, 'oid'> {
  const latin1 = content.toString('latin1')
  if (tag === tags.utf8String) {
    if (isAscii(content)) return { value: latin1, encoding: 'utf8' }
    try {
      return { value: utf8.decode(content), encoding: 'utf8' }
    } catch {
      // not UTF-8: shown in hex below
    }
  }
  if (tag === tags.printableString && /^[A-Za-z0-9 '()+,\-./:=?]*$/.test(latin1)) {
    return { value: latin1, encoding: 'printable' }
  }
  if (tag === tags.ia5String && /^[\0-\x7f]*$/.test(latin1)) return { value: latin1, encoding: 'ia5' }
  return { value: `#${der.toString('hex')}`, encoding: 'other' }
}

/** A name of UTF8Strings in the order O, OU…, CN (RFC 5280 4.1.2.4). */
export function buildName(parts: {
  commonName?: string
  organizationalUnits?: string[]
  organization?: string
}): Buffer {
  const rdn = (type: string, value: string): Buffer => setOf(sequence(oid(type), utf8String(value)))
  return sequence(
    ...(parts.organization === undefined ? [] : [rdn(oids.organization, parts.organization)]),
    ...(parts.organizationalUnits ?? []).map((unit) => rdn(oids.organizationalUnit, unit)),
    ...(parts.commonName === undefined ? [] : [rdn(oids.commonName, parts.commonName)]),
  )
}

/**
 * RFC 5280 7.1: same RDNs in the same order; PrintableString and UTF8String compare without regard to case and to the
 * amount of white space. Any other value, and any that holds characters RFC 4518 2.4 prohibits, has to be equal exactly.
 */
export function namesEqual(a: DistinguishedName, b: DistinguishedName): boolean {
  if (a.der.equals(b.der)) return true
  return a.rdns.length === b.rdns.length && a.rdns.every((rdn, at) => rdnsEqual(rdn, b.rdns[at]!))
}

function rdnsEqual(a: NameAttribute[], b: NameAttribute[]): boolean {
  if (a.length !== b.length) return false
  const keys = b.map(comparisonKey)
  for (const attribute of a) {
    const at = keys.indexOf(comparisonKey(attribute))
    if (at === -1) return false
    keys.splice(at, 1)
  }
  return true
}

function comparisonKey({ oid: type, value, encoding }: NameAttribute): string {
  const isDirectoryString = encoding === 'utf8' || encoding === 'printable'
  if (!isDirectoryString || /[\p{C}\ufffd]/u.test(value)) return `${type} ${encoding} ${value}`
  const folded = value.toLowerCase().normalize('NFKC').toLowerCase().normalize('NFKC')
  return `${type} prepared ${folded.replaceAll(/[\p{Z}\s]+/gu, ' ').trim()}`
}

const shortNames = {
  CN: oids.commonName,
  OU: oids.organizationalUnit,
  O: oids.organization,
  serialNumber: oids.serialNumberAttribute,
} as const

/** Values in the name's order, of single-valued RDNs and well encoded directory strings only. */
export function valuesOf(name: DistinguishedName, type: keyof typeof shortNames): string[] {
  return name.rdns.flatMap((rdn) => {
    const [attribute] = rdn
    if (rdn.length !== 1 || attribute!.oid !== shortNames[type]) return []
    return attribute!.encoding === 'utf8' || attribute!.encoding === 'printable' ? [attribute!.value] : []
  })
}

/** Every attribute of that type, in multi-valued RDNs too. */
export const attributesOf = (name: DistinguishedName, type: keyof typeof shortNames): NameAttribute[] =>
  name.rdns.flat().filter(({ oid: found }) => found === shortNames[type])

const labels = new Map<string, string>([
  ...Object.entries(shortNames).map(([label, type]): [string, string] => [type, label]),
  ['2.5.4.6', 'C'],
  ['2.5.4.7', 'L'],
  ['2.5.4.8', 'ST'],
  ['2.5.4.9', 'STREET'],
  ['0.9.2342.19200300.100.1.1', 'UID'],
  ['0.9.2342.19200300.100.1.25', 'DC'],
  ['1.2.840.113549.1.9.1', 'emailAddress'],
])

/**
 * A name for people and logs, never for decisions: RFC 4514 order (last RDN first) and escaping. Characters that do not
 * show, or that change how their neighbours show, stand as `<U+202E>`; a literal `<` is escaped, so no name can fake one.
 */
export function formatName(name: DistinguishedName): string {
  return name.rdns
    .toReversed()
    .map((rdn) => rdn.map(formatAttribute).join('+'))
    .join(',')
}

function formatAttribute({ oid: type, value, encoding }: NameAttribute): string {
  const label = labels.get(type) ?? type
  if (encoding === 'other' || /^[A-Za-z0-9][A-Za-z0-9._:-]*$/.test(value)) return `${label}=${value}`
  const escaped = value
    .replaceAll(/["+,;<>\\]/g, '\\$&')
    .replace(/^[ #]/, '\\$&')
    .replace(/(?<!^\\?) $/, '\\ ')
    // \p{C}: control, format (the direction marks among them), private use, unassigned; \p{Z} but the plain space.
    .replaceAll(/[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu, (character) => {
      return `<U+${character.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0')}>`
    })
  return `${label}=${escaped}`
}

/** The URI that names a device in its certificate's subjectAltName. */
export const deviceUri = (id: DeviceId): string => `urn:fleetgate:device:${id}`

/** The kinds of GeneralName that we read and write; `ips` in the text form of RFC 5952. */
export type AlternativeNames = { uris: string[]; dns: string[]; ips: string[] }

const generalName = { dns: 0x82, uri: 0x86, ip: 0x87 } as const
const maxAlternativeNamesBytes = 32_768

/**
 * GeneralNames (RFC 5280 4.2.1.6). Kinds that we have no use for are passed over.
 *
 * @throws DerError also for a URI or DNS name with a space, a control character or anything that is not ASCII
 */
export function parseAlternativeNames(der: Uint8Array): AlternativeNames {
  const reader = readDer(der, maxAlternativeNamesBytes).enter()
  const names: AlternativeNames = { uris: [], dns: [], ips: [] }
  if (reader.done) throw new DerError('a subjectAltName without a name')
  while (!reader.done) {
    const { tag, content } = reader.next()
    if (tag === generalName.ip) names.ips.push(formatIp(content))
    if (tag === generalName.dns) names.dns.push(visibleAscii(content))
    if (tag === generalName.uri) names.uris.push(visibleAscii(content))
  }
  return names
}

function visibleAscii(content: Buffer): string {
  const text = content.toString('latin1')
  if (!/^[\x21-\x7e]+$/.test(text)) throw new DerError('a subjectAltName that is not visible ASCII')
  return text
}

/** @throws DerError when a name cannot stand in a certificate */
export function buildAlternativeNames(names: Partial<AlternativeNames>): Buffer {
  const text = (tag: number, value: string): Buffer => {
    const content = Buffer.from(value, 'utf8')
    visibleAscii(content)
    return element(tag, content)
  }
  return sequence(
    ...(names.uris ?? []).map((uri) => text(generalName.uri, uri)),
    ...(names.dns ?? []).map((dns) => text(generalName.dns, dns)),
    ...(names.ips ?? []).map((ip) => element(generalName.ip, parseIp(ip))),
  )
}

const octet = '(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)'
const ipv4 = new RegExp(`^${octet}(?:\\.${octet}){3}$`)

/** @returns 4 or 16 octets, network order */
function parseIp(text: string): Buffer {
  if (ipv4.test(text)) return Buffer.from(text.split('.').map(Number))
  const canonical = /^[0-9A-Fa-f:.]+$/.test(text) ? canonicalIpv6(text) : undefined
  if (canonical === undefined) throw new DerError(`${text} is not an IP address`)
  const [head, tail] = canonical.split('::').map((half) => (half === '' ? [] : half.split(':')))
  const groups = tail === undefined ? head! : [...head!, ...Array(8 - head!.length - tail.length).fill('0'), ...tail]
  return Buffer.from(groups.map((group) => group.padStart(4, '0')).join(''), 'hex')
}

function formatIp(octets: Buffer): string {
  if (octets.length === 4) return octets.join('.')
  if (octets.length !== 16) throw new DerError(`an IP address of ${octets.length} octets`)
  return canonicalIpv6(octets.toString('hex').match(/.{4}/g)!.join(':'))!
}

/** RFC 5952 text by way of the URL parser, which writes hosts that way. */
function canonicalIpv6(text: string): string | undefined {
  return URL.parse(`http://[${text}]/`)?.hostname.slice(1, -1)
}
