import { createServer } from 'node:net'
import { splitAddress } from '../runtime/config.ts'
import { FleetError } from '../runtime/errors.ts'

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
