import type { EvidenceKind } from '../../contract/configuration.ts'
import type { DeviceId } from '../../contract/ids.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { EdgeRequest } from '../../runtime/https.ts'
import type { Registry } from '../registry/registry.ts'
import { type ClaimProof, findClaimProof } from './claim-certificate.ts'
import { type CertificateEvidence, readCertificateEvidence } from './current-certificate.ts'
import { type FactoryProof, findFactoryProof } from './factory-certificate.ts'
import type { Label } from './profiles.ts'
import { findTokenProof, type TokenProof } from './token.ts'

/** One thing that a caller proved for a first certificate. */
export type Proof = TokenProof | FactoryProof | ClaimProof
/** What a caller can show; an approval is not shown but given. */
export type ProvenKind = Exclude<EvidenceKind, 'approval'>
/** All of it, which may be nothing where a person decides. Whether it is enough, the profile says. */
export type EnrollmentEvidence = { kind: 'enrollment'; proofs: Proof[] }
/** What the caller proved, before any decision. */
export type Evidence = EnrollmentEvidence | CertificateEvidence

export type Asked = { registry: Registry; label: Label; now: Date }
type Shown = Pick<EdgeRequest, 'headers' | 'certificate' | 'certificateFault'>

/** Evidence for a first certificate where there is some, else the certificate of the connection, for operations that take either. */
export async function readEvidence(request: Shown, asked: Asked): Promise<Evidence> {
  const proofs = await readProofs(request, asked)
  if (proofs.length === 0 && request.certificate !== undefined) {
    return readCertificateEvidence(asked.registry, request, asked.now)
  }
  return enrollment(proofs, asked.label)
}

/**
 * What is shown is verified whether or not it is asked for.
 *
 * @throws FleetError `unauthenticated` when nothing is shown and that is not enough, `token_invalid`, and what
 *   speaks against a factory certificate
 */
export async function readEnrollmentEvidence(request: Shown, asked: Asked): Promise<EnrollmentEvidence> {
  return enrollment(await readProofs(request, asked), asked.label)
}

async function readProofs(request: Shown, { registry, label, now }: Asked): Promise<Proof[]> {
  const proofs = [
    await findTokenProof(registry, request),
    await findFactoryProof(registry, request, { label: label.name, trust: label.factory, now }),
    findClaimProof(request, { trust: label.claim, now }),
  ]
  return proofs.filter((proof) => proof !== undefined)
}

function enrollment(proofs: Proof[], { profile }: Label): EnrollmentEvidence {
  // Without a profile it is not known yet what will be asked for, and a token is what every client understands.
  const first = (profile?.evidence ?? ['token']).find((kind) => kind !== 'approval')
  if (proofs.length === 0 && first !== undefined) throw missing(first)
  return { kind: 'enrollment', proofs }
}

/** The refusal that asks for it. */
export function missing(kind: ProvenKind): FleetError {
  if (kind === 'factory') {
    return new FleetError('certificate_missing', 'present the certificate that the factory gave you over mutual TLS')
  }
  if (kind === 'claim') {
    return new FleetError('certificate_missing', 'present the claim certificate over mutual TLS')
  }
  return new FleetError(
    'unauthenticated',
    'enroll with HTTP Basic: the device id as username and its enrollment token as password',
  )
}

/**
 * The device that the proofs are of; undefined when they do not say.
 *
 * @throws FleetError `evidence_mismatch` when they are of two
 */
export function provenDevice({ proofs }: EnrollmentEvidence): DeviceId | undefined {
  const ids = new Set(proofs.flatMap((proof) => ('deviceId' in proof ? [proof.deviceId] : [])))
  if (ids.size <= 1) return [...ids][0]
  throw new FleetError('evidence_mismatch', `the credentials are of two devices: ${[...ids].join(' and ')}`)
}
