import { createHash, randomBytes } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  type CertificateFacts,
  issue,
  newSerialNumber,
  parseCertificate,
  parsePem,
  prepare,
  toPem,
} from '../../pki/certificate.ts'
import { createKeyFile, openKeyFile, type Signer } from '../../pki/keystore.ts'
import { buildName } from '../../pki/names.ts'
import { issuingProfile, rootProfile } from '../../pki/profile.ts'
import { FleetError } from '../../runtime/errors.ts'
import { writeFileAtomic } from '../../runtime/files.ts'
import { findHierarchy, writeHierarchy } from '../registry/hierarchies.ts'
import type { Registry } from '../registry/registry.ts'
import { pointsOfRoot } from './distribution-points.ts'

export type Authority = { certificate: CertificateFacts; pem: string; signer: Signer }
export type Hierarchy = {
  root: { certificate: CertificateFacts; pem: string; fingerprint: string }
  issuing: Authority
  /** PEM of each CA certificate that may stand in a chain of ours. */
  anchors: string[]
  /**
   * DER of what devices fetch (RFC 7030 4.1.3): the issuing CA first, then the root. OldWithNew and NewWithOld of a rollover
   * (RFC 4210 4.4) belong behind them: some clients take the first certificate for the one that issues.
   */
  distributed: Buffer[]
}

/**
 * Opens the root and the issuing CA, creating them on the first start. What exists is never overwritten; a first start
 * that was cut short goes on where it stopped. The root's key may be taken away once the issuing CA is there.
 *
 * @param folder     where `root.key root.crt issuing.key issuing.crt` are
 * @throws FleetError `data_damaged` when keys and registry do not belong together, `key_permissions`, `key_passphrase`
 */
export async function openHierarchy(input: {
  folder: string
  registry: Registry
  passphrase: string | undefined
  now: Date
  /** where revocation lists are, if anywhere */
  statusUrl?: string | undefined
}): Promise<Hierarchy> {
  const { folder, registry, passphrase, now } = input
  const path = (name: string): string => join(folder, name)
  const has = (name: string): boolean => existsSync(path(name))
  const setUp = await findHierarchy(registry)
  if (setUp === undefined && has('issuing.crt')) {
    throw new FleetError(
      'data_damaged',
      `${folder} holds a certificate authority, but the registry beside it is empty: without it nobody knows who was revoked. Restore the registry from a backup, or start with another data folder`,
    )
  }
  if (setUp === undefined) {
    await registry.commit({
      requestId: 'setup-hierarchy',
      writes: [writeHierarchy({ name: randomBytes(3).toString('hex'), complete: false }, 0)],
      audit: [
        {
          action: 'authority.creating',
          actor: 'system',
          subject: 'authority:root',
          outcome: 'intended',
          requestId: 'setup-hierarchy',
        },
      ],
      at: now,
    })
  }
  const { doc, rev } = (await findHierarchy(registry))!
  if (doc.complete) return read(folder, passphrase)

  const rootSigner = has('root.key')
    ? openKeyFile(path('root.key'), passphrase)
    : createKeyFile(path('root.key'), passphrase)
  if (!has('root.crt')) {
    const made = await issue(
      prepare({
        profile: rootProfile,
        issuer: { certificate: 'self', signer: rootSigner },
        serial: newSerialNumber(randomBytes),
        subject: buildName({ commonName: `Fleetgate Root CA ${doc.name}` }),
        subjectAltName: {},
        publicKeySpki: rootSigner.publicKeySpki,
        notBefore: now,
        notAfter: new Date(now.getTime() + rootProfile.validityMs),
      }),
    )
    writeFileAtomic(path('root.crt'), made.pem)
  }
  const root = readCertificate(path('root.crt'))
  const issuingSigner = has('issuing.key')
    ? openKeyFile(path('issuing.key'), passphrase)
    : createKeyFile(path('issuing.key'), passphrase)
  if (!has('issuing.crt')) {
    const made = await issue(
      prepare({
        profile: issuingProfile,
        issuer: { certificate: root, signer: rootSigner },
        serial: newSerialNumber(randomBytes),
        subject: buildName({ commonName: `Fleetgate Issuing CA ${doc.name}` }),
        subjectAltName: {},
        publicKeySpki: issuingSigner.publicKeySpki,
        notBefore: now,
        notAfter: new Date(now.getTime() + issuingProfile.validityMs),
        pointers: input.statusUrl === undefined ? undefined : pointsOfRoot(root, input.statusUrl).pointersToAll,
      }),
    )
    writeFileAtomic(path('issuing.crt'), made.pem)
  }
  const hierarchy = read(folder, passphrase)
  await registry.commit({
    requestId: 'setup-hierarchy-complete',
    writes: [writeHierarchy({ ...doc, complete: true }, rev)],
    audit: [
      {
        action: 'authority.created',
        actor: 'system',
        subject: 'authority:root',
        outcome: 'done',
        details: { root: hierarchy.root.fingerprint, issuing: hierarchy.issuing.certificate.fingerprint },
        requestId: 'setup-hierarchy-complete',
      },
    ],
    feed: [{ type: 'trust.changed', data: { anchors: hierarchy.anchors } }],
    at: now,
  })
  return hierarchy
}

function read(folder: string, passphrase: string | undefined): Hierarchy {
  for (const name of ['root.crt', 'issuing.crt', 'issuing.key']) {
    if (!existsSync(join(folder, name))) {
      throw new FleetError('data_damaged', `${join(folder, name)} is missing; restore it from a backup`)
    }
  }
  const rootKey = join(folder, 'root.key')
  const root = readCertificate(join(folder, 'root.crt'))
  if (existsSync(rootKey)) matches(openKeyFile(rootKey, passphrase), root, rootKey)
  const certificate = readCertificate(join(folder, 'issuing.crt'))
  const signer = openKeyFile(join(folder, 'issuing.key'), passphrase)
  matches(signer, certificate, join(folder, 'issuing.key'))
  const [rootPem, pem] = [toPem(root.der), toPem(certificate.der)]
  return {
    root: { certificate: root, pem: rootPem, fingerprint: createHash('sha256').update(root.der).digest('hex') },
    issuing: { certificate, pem, signer },
    anchors: [rootPem, pem],
    distributed: [certificate.der, root.der],
  }
}

function matches(signer: Signer, certificate: CertificateFacts, path: string): void {
  if (!signer.publicKeySpki.equals(certificate.publicKeySpki)) {
    throw new FleetError(
      'data_damaged',
      `${path} is not the key of the certificate beside it; restore it from a backup`,
    )
  }
}

function readCertificate(path: string): CertificateFacts {
  const der = parsePem(readFileSync(path, 'utf8'), 'CERTIFICATE')[0]
  if (der === undefined) throw new FleetError('data_damaged', `${path} holds no certificate; restore it from a backup`)
  return parseCertificate(der)
}
