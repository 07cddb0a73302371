import { createServer } from 'node:net'
import type { Configuration } from '../contract/configuration.ts'
import { listenersOf } from '../contract/listeners.ts'
import { splitAddress } from '../runtime/config.ts'
import { FleetError } from '../runtime/errors.ts'

/** Where a gateway listens by its configuration: setting -> `host:port`. */
export function addressesOf({ enroll, broker }: Configuration): Record<string, string> {
  const { est, admin, feed, status } = enroll
  return {
    'enroll.est': est,
    'enroll.admin': admin,
    'enroll.feed': feed,
    ...(status.url === undefined ? {} : { 'enroll.status.listen': status.listen }),
    ...Object.fromEntries(
      listenersOf(broker).map(({ name, listen }) => [
        name === 'mqtts' ? 'broker.listen' : `broker.listeners ${name}`,
        listen,
      ]),
    ),
  }
}

/**
 * Looks before anything is created whether each address can be listened on; a service may still lose it to another later
 * and says so then.
 *
 * @param listeners setting -> `host:port`
 * @throws FleetError `port_in_use`, or `config_invalid` for an address that is not this machine's or needs a privilege
 */
export async function checkPorts(listeners: Record<string, string>): Promise<void> {
  for (const [setting, address] of Object.entries(listeners)) {
    const { host, port } = splitAddress(address)
    if (port !== 0) await check(setting, host, port)
  }
}

function check(setting: string, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', (cause: NodeJS.ErrnoException) => {
      reject(
        cause.code === 'EADDRINUSE'
          ? new FleetError('port_in_use', `Port ${port} of ${setting} is in use`, { cause })
          : new FleetError('config_invalid', `${setting}: ${host}:${port} cannot be listened on (${cause.code})`, {
              cause,
            }),
      )
    })
    server.listen({ host, port }, () => server.close(() => resolve()))
  })
}
