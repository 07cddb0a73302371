/** IP networks as policies name them (RFC 4632, RFC 4291). */

/** An address range: the first `bits` of `octets` are its own. */
export type Network = { readonly octets: readonly number[]; readonly bits: number }

/** @returns undefined when `text` is no network, or has bits set behind its prefix, which is most often a slip */
export function parseNetwork(text: string): Network | undefined {
  const [, address = '', length = ''] = /^([^/]*)\/(\d{1,3})$/.exec(text) ?? []
  const octets = parseAddress(address)
  const bits = Number(length)
  if (octets === undefined || bits > octets.length * 8) return undefined
  const isClear = octets.every((octet, at) => (octet & ~maskOf(bits - at * 8)) === 0)
  return isClear ? { octets, bits } : undefined
}

/** An IPv4 address in IPv6's clothes (`::ffff:10.0.0.1`) is the IPv4 address. @returns false for what is no address */
export const isWithin = (address: string, network: Network): boolean => isAmong(address, [network])

/** Whether it is within any of them. */
export function isAmong(address: string, networks: readonly Network[]): boolean {
  if (networks.length === 0) return false
  const own = parseAddress(address.replace(/^::ffff:(?=\d+\.)/i, ''))
  if (own === undefined) return false
  return networks.some(
    ({ octets, bits }) =>
      own.length === octets.length && octets.every((octet, at) => ((own[at]! ^ octet) & maskOf(bits - at * 8)) === 0),
  )
}

/** Of the first `bits` of an octet. */
const maskOf = (bits: number): number => (bits >= 8 ? 0xff : bits <= 0 ? 0 : (0xff << (8 - bits)) & 0xff)

function parseAddress(text: string): number[] | undefined {
  return text.includes(':') ? parseV6(text) : parseV4(text)
}

function parseV4(text: string): number[] | undefined {
  const parts = text.split('.')
  // No leading zeros: some read them as octal.
  if (parts.length !== 4 || !parts.every((part) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) < 256))
    return undefined
  return parts.map(Number)
}

function parseV6(text: string): number[] | undefined {
  const halves = text.split('::')
  if (halves.length > 2) return undefined
  const [head, tail] = halves.map((half) => (half === '' ? [] : half.split(':').map(groupOf)))
  if (head === undefined || [...head, ...(tail ?? [])].includes(undefined)) return undefined
  const missing = 8 - head.length - (tail?.length ?? 0)
  if (tail === undefined ? missing !== 0 : missing < 1) return undefined
  const groups = [...head, ...Array.from({ length: missing }, () => 0), ...(tail ?? [])] as number[]
  return groups.flatMap((group) => [group >> 8, group & 0xff])
}

const groupOf = (text: string): number | undefined =>
  /^[0-9a-f]{1,4}$/i.test(text) ? Number.parseInt(text, 16) : undefined
