import { readPrivateFile, writeFileAtomic } from '../runtime/files.ts'
import type { EstClient } from './est-client.ts'
import { type Identity, identityOf } from './identity.ts'

/** Key and certificate in one file: a crash in the middle of a renewal leaves the old pair or the new one, never half. */
export const writeIdentity = (file: string, { privateKeyPem, certificatePem }: Identity): void =>
  writeFileAtomic(file, privateKeyPem + certificatePem, 0o600)

/** @throws FleetError `key_permissions`, `data_damaged` */
export function readIdentity(file: string, est: EstClient): Identity {
  const pem = readPrivateFile(file)
  const at = pem.indexOf('-----BEGIN CERTIFICATE-----')
  return identityOf(est, pem.slice(0, at), pem.slice(at))
}
