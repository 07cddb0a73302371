import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { FleetError } from '../runtime/errors.ts'
import { readPrivateFile, writeFileAtomic } from '../runtime/files.ts'
import { runService } from '../runtime/lifecycle.ts'
import { EstClient, fetchTrust } from './est-client.ts'
import { enrollIdentity, type Identity, identityOf } from './identity.ts'
import { readOptions, readToken } from './options.ts'
import { runDevice } from './unattended.ts'

await runService('device-sim', async (log) => {
  const {
    est: url,
    mqtts,
    rootFingerprint,
    id,
    token,
    tokenFile,
    dir,
    intervalMs,
  } = readOptions(process.argv.slice(2), process.env)
  // Key and certificate in one file: a crash in the middle of a renewal leaves the old pair or the new one, never half.
  const file = join(dir, `${id}.pem`)
  const isEnrolled = existsSync(file)
  if (!isEnrolled && token === undefined && tokenFile === undefined) {
    throw new FleetError('config_invalid', `there is no ${file} yet, so --token or --token-file is needed`)
  }
  const est = new EstClient(url, await fetchTrust(url, rootFingerprint))
  const store = ({ privateKeyPem, certificatePem }: Identity): void =>
    writeFileAtomic(file, privateKeyPem + certificatePem, 0o600)
  const stored = (): Identity => {
    const pem = readPrivateFile(file)
    const at = pem.indexOf('-----BEGIN CERTIFICATE-----')
    return identityOf(est, pem.slice(0, at), pem.slice(at))
  }
  const enroll = async (): Promise<Identity> => {
    const identity = await enrollIdentity(est, id, token ?? readToken(tokenFile!))
    store(identity)
    log.info({ event: 'device.enrolled', deviceId: id }, 'enrolled')
    return identity
  }
  const identity = isEnrolled ? stored() : await enroll()
  return runDevice({ id, mqtts, est, identity, intervalMs, store, log })
})
