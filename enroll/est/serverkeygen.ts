import { randomBytes } from 'node:crypto'
import { type CertificateFacts, parseCertificate } from '../../pki/certificate.ts'
import { certsOnly } from '../../pki/cms.ts'
import { type KeyEncryption, parseKeyGenerationRequest } from '../../pki/csr.ts'
import { sequence } from '../../pki/der.ts'
import { type EncryptionPlan, envelop, planEncryption } from '../../pki/enveloped-data.ts'
import { generateKey } from '../../pki/key-generation.ts'
import { oids } from '../../pki/oids.ts'
import { spkiHashOf } from '../../pki/public-key.ts'
import { contentInfo, signData } from '../../pki/signed-data.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { EdgeAnswer, EdgeRequest } from '../../runtime/https.ts'
import { type Evidence, provenDevice, readEvidence } from '../ra/evidence.ts'
import type { EnrollmentProfile, Label } from '../ra/profiles.ts'
import { findCertificate } from '../registry/certificates.ts'
import { findDevice } from '../registry/devices.ts'
import { certsOnlyType, decodeBody, encodeSecret, windowOf } from './encoding.ts'
import { certify, limitRenewals, pendingAnswer } from './enroll.ts'
import type { EstContext } from './routes.ts'

/**
 * RFC 7030 4.4: a key and its certificate, for a device that cannot make good keys. The key is nowhere but in this answer: one
 * that is lost on its way cannot be given again, and a token is spent by it.
 */
export async function serverkeygen(request: EdgeRequest, label: Label, context: EstContext): Promise<EdgeAnswer> {
  const { registry, ra, clock } = context
  const prove = () => readEvidence(request, { registry, label, now: clock() })
  const evidence = await prove()
  limitRenewals(request, evidence, context)
  const { keyType: wished, encryption, ...names } = parseKeyGenerationRequest(decodeBody(request.body))
  const profile = requireKeygen((await ra.describe(label, evidence)).profile, evidence)
  const plan = await planFor(encryption, evidence, profile, context)
  const keyType = profile.keyTypes.find((type) => type === wished) ?? profile.keyTypes[0]!

  const { pkcs8, publicKeySpki } = await generateKey(keyType)
  try {
    const csr = { ...names, publicKeySpki, spkiHash: spkiHashOf(publicKeySpki), keyType }
    const certified = await certify({ request, label, csr, evidence, prove }, context)
    if ('retryAfterMs' in certified) return pendingAnswer(request, certified)
    return await keyAnswer(pkcs8, plan, certified.der, context)
  } finally {
    pkcs8.fill(0)
  }
}

/** Before a key is made, which is the dearest thing that a stranger can ask for. */
function requireKeygen(profile: EnrollmentProfile | undefined, evidence: Evidence): EnrollmentProfile {
  if (profile?.evidence.includes('approval') && evidence.kind === 'enrollment') {
    throw new FleetError(
      'keygen_disabled',
      'what waits for approval is a key of the device: make one and use simpleenroll',
    )
  }
  if (profile !== undefined && profile.serverKeygen !== 'off') return profile
  throw new FleetError('keygen_disabled', 'keys are not generated here for this device; make one and use simpleenroll')
}

/** @returns undefined when the key may go out in clear, inside TLS (RFC 7030 4.4) */
async function planFor(
  wish: KeyEncryption | undefined,
  evidence: Evidence,
  profile: EnrollmentProfile,
  context: EstContext,
): Promise<EncryptionPlan | undefined> {
  if (wish === undefined) {
    if (profile.serverKeygen === 'clear') return undefined
    throw new FleetError(
      'key_encryption_required',
      `profile ${profile.name} hands out keys only encrypted: name one of yours in AsymmetricDecryptKeyIdentifier`,
    )
  }
  // RFC 7030 4.4.1.1, 4.4.1.2: what cannot be encrypted as asked is not sent otherwise.
  if (wish.kind === 'symmetric') {
    throw new FleetError(
      'key_encryption_unavailable',
      'no symmetric key is shared with devices here; name a key of yours in AsymmetricDecryptKeyIdentifier',
    )
  }
  const recipient = await findRecipient(evidence, wish.keyId.toString('hex'), context)
  if (recipient !== undefined) return planEncryption(recipient, wish.capabilities)
  throw new FleetError(
    'key_encryption_unavailable',
    'AsymmetricDecryptKeyIdentifier is not the subjectKeyIdentifier of a current certificate of this device',
  )
}

/** The certificate that was shown, or the device's newest one, when it has this subjectKeyIdentifier and counts. */
async function findRecipient(
  evidence: Evidence,
  keyId: string,
  { registry, clock }: EstContext,
): Promise<CertificateFacts | undefined> {
  if (evidence.kind === 'certificate') {
    return evidence.certificate.subjectKeyId === keyId ? evidence.certificate : undefined
  }
  const deviceId = provenDevice(evidence)
  const serial = deviceId && (await findDevice(registry, deviceId))?.doc.currentSerial
  const record = serial === undefined ? undefined : await findCertificate(registry, serial)
  if (record?.doc.status !== 'issued') return undefined
  const certificate = parseCertificate(Buffer.from(record.doc.der!, 'base64'))
  return certificate.subjectKeyId === keyId && certificate.notAfter > clock() ? certificate : undefined
}

/** RFC 7030 4.4.2: multipart/mixed of the key and the certificate. */
async function keyAnswer(
  pkcs8: Buffer,
  plan: EncryptionPlan | undefined,
  certificate: Buffer,
  context: EstContext,
): Promise<EdgeAnswer> {
  const boundary = `fleetgate-${randomBytes(12).toString('hex')}`
  // libest wants every part to name its encoding, in this case.
  const head = (type: string): Buffer =>
    Buffer.from(`--${boundary}\r\nContent-Type: ${type}\r\nContent-Transfer-Encoding: base64\r\n\r\n`)
  const key = encodeSecret(plan === undefined ? pkcs8 : await encryptKey(pkcs8, plan, context))
  const body = Buffer.concat([
    head(plan === undefined ? 'application/pkcs8' : 'application/pkcs7-mime; smime-type=server-generated-key'),
    key,
    head(certsOnlyType),
    encodeSecret(certsOnly([certificate])),
    Buffer.from(`--${boundary}--\r\n`),
  ])
  key.fill(0)
  const headers = { 'Content-Type': `multipart/mixed; boundary=${boundary}`, ...windowOf(certificate) }
  return { status: 200, headers, body }
}

/** RFC 7030 4.4.2, RFC 5958 4: the key in a package, signed by who made it, and that enveloped. */
async function encryptKey(pkcs8: Buffer, plan: EncryptionPlan, { responder, clock }: EstContext): Promise<Buffer> {
  const keyPackage = sequence(pkcs8)
  const signed = await signData({
    content: { type: oids.asymmetricKeyPackage, octets: keyPackage },
    by: responder(),
    certificates: [],
    now: clock(),
  })
  const enveloped = contentInfo(oids.envelopedData, envelop({ type: oids.signedData, octets: signed }, plan))
  keyPackage.fill(0)
  signed.fill(0)
  return enveloped
}
