/** What a policy may look at of who is behind a connection, and what the registry's record gives of it. */
import { type DeviceAttributes, isAttributeName } from './device-attributes.ts'

const attributePrefix = 'device.attributes.'

/** Values come from the registry record, the certificate's walked RDNs, or the CONNECT; `device.attributes.NAME` beside these. */
export const factNames = [
  'device.id',
  'device.group',
  'device.profile',
  'subject.CN',
  'subject.OU',
  'subject.O',
  'subject.serialNumber',
  'san.uri',
  'san.dns',
  'issuer.label',
  'cert.serial',
  'cert.fingerprint',
  'cert.notAfter',
  'verify.state',
  'client.id',
  'client.suffix',
] as const
export type FactName = (typeof factNames)[number] | `device.attributes.${string}`

/** Names that a `match` had first. `issuer` is the CN of the issuing CA, `issuer.label` what the gateway calls that CA. */
const aliases = new Map<string, FactName>([
  ['group', 'device.group'],
  ['profile', 'device.profile'],
])
export type MatchName = FactName | 'group' | 'profile' | 'issuer'

/**
 * A principal's values: several where the certificate or the record has several (groups, OUs). `unread`: names of which it has more than
 * could be read; what is denied by them is denied.
 */
export type PrincipalFacts = { readonly [N in FactName | 'issuer' | 'unread']?: readonly string[] }

const plainNames: ReadonlySet<string> = new Set(factNames)

export const isFactName = (text: string): text is FactName =>
  plainNames.has(text) || (text.startsWith(attributePrefix) && isAttributeName(text.slice(attributePrefix.length)))
export const isMatchName = (text: string): text is MatchName =>
  isFactName(text) || aliases.has(text) || text === 'issuer'
/** A point in time is no level of a topic. */
export const isVariable = (text: string): text is FactName => isFactName(text) && text !== 'cert.notAfter'

const listed = `device.attributes.NAME, ${factNames.join(', ')}`
export const unknownName = (what: string): string => `unknown name ${what}; known: ${listed}`
export const unknownVariable = (what: string): string =>
  `unknown variable ${what}; known: ${listed.replace(' cert.notAfter,', '')}`

/** What a name in a `match` stands for. */
export const factNameOf = (name: string): FactName | 'issuer' => aliases.get(name) ?? (name as FactName | 'issuer')

export function factsOfDevice(device: {
  id: string
  profile: string
  groups: readonly string[]
  attributes?: DeviceAttributes | undefined
}): PrincipalFacts {
  const attributes = Object.entries(device.attributes ?? {}).map(([name, value]) => [attributePrefix + name, [value]])
  return {
    ...Object.fromEntries(attributes),
    'device.id': [device.id],
    'device.profile': [device.profile],
    'device.group': device.groups,
  }
}

/** @param clientId the device id, or the device id, `:` and the suffix */
export function factsOfClient(clientId: string): PrincipalFacts {
  const colon = clientId.indexOf(':')
  return { 'client.id': [clientId], ...(colon < 0 ? {} : { 'client.suffix': [clientId.slice(colon + 1)] }) }
}
