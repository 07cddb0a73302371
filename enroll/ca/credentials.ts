import { existsSync, readFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { parseCertificate, parsePem } from '../../pki/certificate.ts'
import { createKeyFile, openKeyFile } from '../../pki/keystore.ts'
import {
  auditorProfile,
  type CertificateProfile,
  ocspProfile,
  operatorProfile,
  registrationProfile,
  serverAndClientProfile,
} from '../../pki/profile.ts'
import { spkiHashOf } from '../../pki/public-key.ts'
import { writeFileAtomic } from '../../runtime/files.ts'
import { type CertificateRecord, findCertificate, indexOwn, writeCertificate } from '../registry/certificates.ts'
import { findOperator, writeOperator } from '../registry/operators.ts'
import type { Registry, Write } from '../registry/registry.ts'
import { findWatchedKey } from '../registry/watched-keys.ts'
import type { Hierarchy } from './hierarchy.ts'
import { firstOperator, keepFirstOperator } from './operators.ts'
import { issuedFact, signOwn } from './own-certificates.ts'

/** The name that clients of enroll's own listeners ask for, whatever address they reach it by. */
export const enrollName = 'enroll.fleetgate.internal'

type Credential = {
  kind: 'server' | 'broker' | 'operator' | 'responder' | 'auditor'
  folder: string
  /** Stem of the file names: `tls` gives `tls.key` and `tls.crt`. */
  stem: string
  commonName: string
  names: string[]
  profile: CertificateProfile
}
type Context = { registry: Registry; hierarchy: Hierarchy; passphrase: string | undefined; now: Date }

/**
 * Makes and renews the certificates of the gateway's own parts: enroll's listeners, the broker, the first operator, the audit log, the OCSP responder.
 * Keys are made once; a certificate is made when there is none, when its names changed, its uses changed, or with a third of its life left.
 * One that was revoked has no successor by itself, nor has a key that was compromised: somebody has to delete its files first.
 *
 * @returns whether any file was written, and the certificates that are of no use any more
 */
export async function keepCredentials(
  input: Context & { dataDir: string; names: string[]; brokerId: string; hasResponder: boolean },
): Promise<{ changed: boolean; revoked: string[] }> {
  const { dataDir, brokerId } = input
  await indexOwn(input.registry, input.now)
  // This machine's own name comes for free, so that a gateway in a local network is found by it.
  const names = [...new Set([...input.names, hostname()])].filter(
    (name) => isIP(name) || /^[A-Za-z0-9.-]{1,253}$/.test(name),
  )
  const services = join(dataDir, 'services')
  const wanted: Credential[] = [
    {
      kind: 'server',
      folder: join(services, 'enroll'),
      stem: 'tls',
      commonName: 'enroll',
      names: [...names, enrollName],
      profile: registrationProfile,
    },
    {
      kind: 'broker',
      folder: join(services, 'broker'),
      stem: 'tls',
      commonName: brokerId,
      names,
      profile: serverAndClientProfile,
    },
    ...((await keepFirstOperator(input.registry, isThere(operatorIn(dataDir)), input.now))
      ? [operatorIn(dataDir)]
      : []),
    auditorIn(services),
    ...(input.hasResponder ? [responderIn(services)] : []),
  ]
  const { root } = input.hierarchy
  let changed = false
  for (const path of [
    join(dataDir, 'root.crt'),
    join(services, 'enroll', 'root.crt'),
    join(services, 'broker', 'root.crt'),
  ]) {
    if (existsSync(path) && readFileSync(path, 'utf8') === root.pem) continue
    writeFileAtomic(path, root.pem)
    changed = true
  }
  const revoked: string[] = []
  for (const credential of wanted) {
    const outcome = await keepCredential(credential, input)
    if (outcome === 'revoked') revoked.push(join(credential.folder, `${credential.stem}.crt`))
    changed ||= outcome === 'made'
  }
  return { changed, revoked }
}

const operatorIn = (dataDir: string): Credential => ({
  kind: 'operator',
  folder: join(dataDir, 'operator'),
  stem: 'operator',
  commonName: firstOperator,
  names: [],
  profile: operatorProfile,
})

function auditorIn(services: string): Credential {
  const folder = join(services, 'audit')
  return { kind: 'auditor', folder, stem: 'audit', commonName: 'audit', names: [], profile: auditorProfile }
}

const isThere = ({ folder, stem }: Credential): boolean =>
  ['key', 'crt'].some((end) => existsSync(join(folder, `${stem}.${end}`)))

function responderIn(services: string): Credential {
  const folder = join(services, 'status')
  return { kind: 'responder', folder, stem: 'ocsp', commonName: 'ocsp', names: [], profile: ocspProfile }
}

async function keepCredential(credential: Credential, context: Context): Promise<'kept' | 'made' | 'revoked'> {
  const { registry, hierarchy, passphrase, now } = context
  const keyPath = join(credential.folder, `${credential.stem}.key`)
  const certificatePath = join(credential.folder, `${credential.stem}.crt`)
  const signer = existsSync(keyPath) ? openKeyFile(keyPath, passphrase) : createKeyFile(keyPath, passphrase)
  if ((await findWatchedKey(registry, spkiHashOf(signer.publicKeySpki))) !== undefined) return 'revoked'
  if (existsSync(certificatePath)) {
    const found = await standingOf(certificatePath, credential, context, signer.publicKeySpki)
    if (found !== 'unfit') return found
  }

  const { issuing } = hierarchy
  const { kind, profile, commonName, names } = credential
  const { publicKeySpki } = signer
  const made = await signOwn(issuing, { kind, profile, commonName, names, publicKeySpki, via: 'setup' }, now)
  const requestId = `setup-${made.record.serial}`
  // Recorded before the file is there: no listener ever shows a certificate that the registry does not know.
  await registry.commit({
    requestId,
    writes: [writeCertificate(made.record, 0), ...(kind === 'operator' ? [await newest(registry, made.record)] : [])],
    audit: [issuedFact(made.record, { actor: 'system', requestId }, { name: commonName, names })],
    at: now,
  })
  writeFileAtomic(certificatePath, made.pem + issuing.pem)
  return 'made'
}

async function newest(registry: Registry, { serial, notAfter }: CertificateRecord): Promise<Write> {
  const { doc, rev } = (await findOperator(registry, firstOperator))!
  return writeOperator({ ...doc, serial, ...(notAfter === undefined ? {} : { expiresAt: notAfter }) }, rev)
}

async function standingOf(
  path: string,
  credential: Credential,
  context: Context,
  spki: Buffer,
): Promise<'kept' | 'unfit' | 'revoked'> {
  const der = parsePem(readFileSync(path, 'utf8'), 'CERTIFICATE')[0]
  if (der === undefined) return 'unfit'
  const certificate = parseCertificate(der)
  const record = await findCertificate(context.registry, certificate.serial)
  if (record?.doc.fingerprint !== certificate.fingerprint) return 'unfit'
  if (record.doc.status === 'revoked') return 'revoked'
  const life = certificate.notAfter.getTime() - certificate.notBefore.getTime()
  const { dns, ips } = certificate.subjectAltName
  const has = new Set([...dns, ...ips])
  const isFit =
    certificate.publicKeySpki.equals(spki) &&
    certificate.authorityKeyId === context.hierarchy.issuing.certificate.subjectKeyId &&
    certificate.notAfter.getTime() - context.now.getTime() > life / 3 &&
    certificate.extendedKeyUsage.join() === credential.profile.extendedKeyUsage.join() &&
    credential.names.every((name) => has.has(name) || isIP(name) === 6) &&
    has.size === new Set(credential.names).size
  return isFit ? 'kept' : 'unfit'
}
