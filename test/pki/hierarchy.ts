/** A CA in memory for tests of this folder: keys that no file holds, dates that no clock gives. */
import { generateKeyPairSync, randomBytes } from 'node:crypto'
import {
  type CertificateFacts,
  issue,
  newSerialNumber,
  type PrepareInput,
  parseCertificate,
  prepare,
} from '../../pki/certificate.ts'
import { type Signer, signerOf } from '../../pki/keystore.ts'
import { buildName } from '../../pki/names.ts'
import { type CertificateProfile, issuingProfile, rootProfile } from '../../pki/profile.ts'

export const now = new Date('2026-03-01T09:00:00Z')
export const after = (milliseconds: number): Date => new Date(now.getTime() + milliseconds)
export const day = 86_400_000

export const sensorProfile: CertificateProfile = {
  name: 'sensor',
  validityMs: 30 * day,
  extendedKeyUsage: ['clientAuth'],
}

export const createSigner = (): Signer => signerOf(generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey)

export const createSpki = (): Buffer =>
  generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ format: 'der', type: 'spki' })

export const serial = () => newSerialNumber(randomBytes)

/** Issues what `input` says, and what it does not say as for sensor `cam-1`. */
export async function issueWith(
  issuer: PrepareInput['issuer'],
  input: Partial<PrepareInput> = {},
): Promise<CertificateFacts> {
  return parseCertificate((await issue(prepare(leafInput(issuer, input)))).der)
}

export function leafInput(issuer: PrepareInput['issuer'], input: Partial<PrepareInput> = {}): PrepareInput {
  const profile = input.profile ?? sensorProfile
  return {
    profile,
    issuer,
    serial: serial(),
    subject: buildName({ commonName: 'cam-1' }),
    subjectAltName: profile.ca ? {} : { uris: ['urn:fleetgate:device:cam-1'] },
    publicKeySpki: createSpki(),
    notBefore: now,
    notAfter: after(profile.validityMs),
    ...input,
  }
}

const rootSigner = createSigner()
const issuingSigner = createSigner()
const root = await issueWith(
  { certificate: 'self', signer: rootSigner },
  { profile: rootProfile, subject: buildName({ commonName: 'Root' }), publicKeySpki: rootSigner.publicKeySpki },
)
const issuing = await issueWith(
  { certificate: root, signer: rootSigner },
  {
    profile: issuingProfile,
    subject: buildName({ commonName: 'Issuing' }),
    publicKeySpki: issuingSigner.publicKeySpki,
  },
)

export const rootIssuer = { certificate: root, signer: rootSigner }
export const issuingIssuer = { certificate: issuing, signer: issuingSigner }
