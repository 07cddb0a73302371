/** PROXY protocol, version 2: who is behind a proxy, said before the first octet of TLS. */
import { BlockList, isIPv6, type Socket } from 'node:net'

const signature = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1')
const headBytes = 16
/** Addresses of a UNIX socket take 216; the rest is room for what proxies add. */
const maxBodyBytes = 1_024
const families = { 17: { bytes: 4, port: 8 }, 33: { bytes: 16, port: 32 } } as const

/** @param networks as in `10.0.0.0/8` */
export function addressList(networks: readonly string[]): (address: string) => boolean {
  if (networks.length === 0) return () => false
  const list = new BlockList()
  for (const network of networks) {
    const [address = '', bits] = network.split('/')
    list.addSubnet(address, Number(bits), isIPv6(address) ? 'ipv6' : 'ipv4')
  }
  return (address) => list.check(address, isIPv6(address) ? 'ipv6' : 'ipv4')
}

/**
 * Reads the header that a socket begins with, and not one octet more; what comes behind it stays in the socket.
 *
 * @returns the address of the client, or that of the proxy where it speaks for itself, as in a health check
 * @throws RangeError for anything but a header of version 2
 */
export async function readProxyHeader(socket: Socket): Promise<string> {
  const head = await take(socket, headBytes)
  if (!head.subarray(0, signature.length).equals(signature)) throw new RangeError('no PROXY header of version 2')
  const [version, family] = head.subarray(12)
  if (version !== 0x20 && version !== 0x21) throw new RangeError('a PROXY header of another version or command')
  const length = head.readUInt16BE(14)
  if (length > maxBodyBytes) throw new RangeError(`a PROXY header of ${length} octets`)
  const body = length === 0 ? Buffer.alloc(0) : await take(socket, length)
  const own = socket.remoteAddress ?? 'unknown'
  if (version === 0x20) return own
  const form = families[family as keyof typeof families]
  if (form === undefined) throw new RangeError('a PROXY header that is not of TCP over IP')
  if (body.length < form.port + 4) throw new RangeError('a PROXY header that is cut off')
  return form.bytes === 4 ? body.subarray(0, 4).join('.') : ipv6Of(body.subarray(0, 16))
}

const mapped = Buffer.from('00000000000000000000ffff', 'hex')

/** RFC 5952 text by way of the URL parser, which writes hosts that way; an IPv4 address in IPv6's clothes is that address. */
function ipv6Of(octets: Buffer): string {
  // RFC 4291 2.5.5.2: a proxy that listens on both has IPv4 clients by such an address, and a policy names their network as IPv4.
  if (octets.subarray(0, mapped.length).equals(mapped)) return octets.subarray(mapped.length).join('.')
  const groups = octets.toString('hex').match(/.{4}/g)!.join(':')
  return new URL(`http://[${groups}]/`).hostname.slice(1, -1)
}

function take(socket: Socket, bytes: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const look = (): void => {
      const found = socket.read(bytes) as Buffer | null
      // At the end of the stream less than was asked for is given.
      if (found !== null) done(() => (found.length === bytes ? resolve(found) : reject(cutOff())))
    }
    const ended = (): void => done(() => reject(cutOff()))
    const cutOff = (): RangeError => new RangeError('the connection ended inside the PROXY header')
    const done = (settle: () => void): void => {
      socket.off('readable', look).off('end', ended).off('close', ended).off('error', ended)
      settle()
    }
    socket.on('readable', look).on('end', ended).on('close', ended).on('error', ended)
    look()
  })
}
