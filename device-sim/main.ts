import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { FleetError } from '../runtime/errors.ts'
import { runService } from '../runtime/lifecycle.ts'
import type { Log } from '../runtime/log.ts'
import { EstClient, fetchTrust } from './est-client.ts'
import { enrollIdentity, type Identity } from './identity.ts'
import { readIdentity, writeIdentity } from './identity-file.ts'
import { readOptions, readToken } from './options.ts'
import { runDevice } from './unattended.ts'

const args = process.argv.slice(2)
if (args[0] === 'load') {
  const { load } = await import('./load/command.ts')
  process.exitCode = await load(args.slice(1))
} else await runService('device-sim', oneDevice)

async function oneDevice(log: Log): ReturnType<typeof runDevice> {
  const { est: url, mqtts, rootFingerprint, id, token, tokenFile, dir, intervalMs } = readOptions(args, process.env)
  const file = join(dir, `${id}.pem`)
  const isEnrolled = existsSync(file)
  if (!isEnrolled && token === undefined && tokenFile === undefined) {
    throw new FleetError('config_invalid', `there is no ${file} yet, so --token or --token-file is needed`)
  }
  const est = new EstClient(url, await fetchTrust(url, rootFingerprint))
  const store = (identity: Identity): void => writeIdentity(file, identity)
  const enroll = async (): Promise<Identity> => {
    const identity = await enrollIdentity(est, id, token ?? readToken(tokenFile!))
    store(identity)
    log.info({ event: 'device.enrolled', deviceId: id }, 'enrolled')
    return identity
  }
  const identity = isEnrolled ? readIdentity(file, est) : await enroll()
  return runDevice({ id, mqtts, est, identity, intervalMs, store, log })
}
