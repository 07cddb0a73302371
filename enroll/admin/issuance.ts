import {
  type CertificateView,
  certificateReceipt,
  certificateView,
  createToken,
  listCertificates as listQuery,
  listTokens as listTokensQuery,
  pageOf,
  policyView,
  registerCertificate as registerBody,
  revokeDevice,
  serialNumber,
  type TokenRecordView,
  tokenRecordView,
  tokenView,
} from '../../contract/admin-api.ts'
import { ownAuthority } from '../../contract/listeners.ts'
import { policyDocument } from '../../contract/policy-document.ts'
import { type CertificateFacts, parseCertificate, toPem } from '../../pki/certificate.ts'
import { FleetError } from '../../runtime/errors.ts'
import { revokeCertificate } from '../ca/certificate-revocation.ts'
import { putPolicy } from '../policy.ts'
import { creationOf } from '../ra/batches.ts'
import { createToken as mint } from '../ra/enrollment-tokens.ts'
import { registerCertificate } from '../ra/foreign-certificate.ts'
import {
  type CertificateRecord,
  getCertificate,
  isAlive,
  isWithin,
  listCertificates,
} from '../registry/certificates.ts'
import { findPolicy } from '../registry/policies.ts'
import { listTokens, type TokenRecord } from '../registry/tokens.ts'
import { confirmed } from './confirmed.ts'
import { readPage } from './paging.ts'
import { route } from './route.ts'

export const issuanceRoutes = [
  route({
    method: 'POST',
    path: '/v1/tokens',
    role: 'enroller',
    summary: 'Make a token that lets one device enroll once',
    answer: tokenView,
    problems: ['device_unknown', 'device_revoked', 'device_held', 'profile_unknown', 'conflict', 'token_void'],
    status: 201,
    body: createToken,
    handle: async ({ body, asked }, { registry, ra }) => {
      const { deviceId, ttlMs } = body
      const create = creationOf(body, (name) => ra.requireProfile(name))
      return mint(registry, { deviceId, ttlMs, ...create }, asked)
    },
  }),
  route({
    method: 'GET',
    path: '/v1/tokens',
    role: 'viewer',
    summary: 'Enrollment tokens, without what is secret in them',
    answer: pageOf(tokenRecordView),
    query: listTokensQuery,
    handle: ({ query }, { registry }) =>
      readPage('tokens', query, (paging) => listTokens(registry, { ...query, ...paging }), showToken),
  }),
  route({
    method: 'GET',
    path: '/v1/certificates',
    role: 'viewer',
    summary: 'Certificates',
    answer: pageOf(certificateView),
    query: listQuery,
    handle: ({ query, asked: { now } }, { registry, issuing }) => {
      const { issuer, expiresInMs, expiresBefore, deviceId, status, serial, ...plain } = query
      const { kind, profile, label, fingerprint, key, subject, reason, used } = plain
      const isIssuedThen = isWithin(plain.issuedFrom, plain.issuedTo)
      const isRevokedThen = isWithin(plain.revokedFrom, plain.revokedTo)
      const isSoon = expiresInMs !== undefined
      const expires = isSoon
        ? { expiresFrom: now, expiresBefore: new Date(now.getTime() + expiresInMs) }
        : { expiresBefore: expiresBefore === undefined ? undefined : new Date(expiresBefore) }
      const isOfIssuer = issuer === undefined ? () => true : isIssuedBy(issuer, issuing.certificate)
      const keep = (doc: CertificateRecord): boolean =>
        (kind === undefined || doc.kind === kind) &&
        (profile === undefined || doc.profile === profile) &&
        (label === undefined || doc.label === label) &&
        (fingerprint === undefined || doc.fingerprint === fingerprint) &&
        (key === undefined || doc.spkiHash === key) &&
        (used === undefined || (doc.firstUsedAt !== undefined) === used) &&
        (subject === undefined || isNamed(doc, subject)) &&
        (reason === undefined || doc.revocationReason === reason) &&
        (!isSoon || isAlive(doc)) &&
        isIssuedThen(doc.issuedAt) &&
        isRevokedThen(doc.revokedAt) &&
        isOfIssuer(doc)
      const filter = { deviceId, status, serial, ...expires, keep }
      return readPage('certificates', query, (paging) => listCertificates(registry, { ...filter, ...paging }), show)
    },
  }),
  route({
    method: 'POST',
    path: '/v1/certificates',
    role: 'enroller',
    summary: 'Register a certificate of another CA as that of a device',
    answer: certificateView,
    problems: ['device_unknown', 'device_revoked', 'device_held', 'certificate_expired', 'key_compromised', 'conflict'],
    status: 201,
    body: registerBody,
    handle: async ({ body, asked }, { registry }) => show(await registerCertificate(registry, body, asked)),
  }),
  route({
    method: 'GET',
    path: '/v1/certificates/:serial',
    role: 'viewer',
    summary: 'One certificate, in PEM too',
    answer: certificateView,
    problems: ['certificate_unknown'],
    handle: async ({ params }, { registry }) => {
      const { doc } = await getCertificate(registry, requireSerial(params.serial))
      return { ...show(doc), ...(doc.der ? { pem: toPem(Buffer.from(doc.der, 'base64')) } : {}) }
    },
  }),
  route({
    method: 'POST',
    path: '/v1/certificates/:serial/revoke',
    role: 'operator',
    summary: 'Revoke it, and leave its device the others',
    answer: certificateReceipt,
    problems: ['certificate_unknown', 'device_unknown', 'conflict'],
    body: revokeDevice,
    handle: async ({ params, body, asked }, context) => {
      const serial = requireSerial(params.serial)
      const revocation = await revokeCertificate(context.registry, { serial, reason: body.reason, ...asked })
      return confirmed(context, revocation, { waitMs: body.waitMs, asked })
    },
  }),
  route({
    method: 'GET',
    path: '/v1/policy',
    role: 'viewer',
    summary: 'The policy in force',
    answer: policyView,
    handle: async ({ tag }, { registry }) => {
      const { doc, rev } = (await findPolicy(registry))!
      tag(rev)
      return doc
    },
  }),
  route({
    method: 'PUT',
    path: '/v1/policy',
    role: 'operator',
    summary: 'Put another in force',
    answer: policyView,
    conditional: true,
    problems: ['precondition_failed', 'conflict'],
    body: policyDocument,
    handle: async ({ body, asked, tag }, { registry }) => {
      const { doc, rev } = await putPolicy(registry, body, asked)
      tag(rev)
      return doc
    },
  }),
]

/** By its label or fingerprint the CA that signs here, by the name in its certificates any other. */
function isIssuedBy(text: string, issuing: CertificateFacts): (doc: CertificateRecord) => boolean {
  const isOurs = text === ownAuthority || text.replaceAll(':', '').toLowerCase() === issuing.fingerprint
  if (!isOurs && /^[0-9a-f:]{64,}$/i.test(text)) {
    throw new FleetError('request_malformed', `the CA that issues here has the fingerprint ${issuing.fingerprint}`)
  }
  return isOurs
    ? ({ der }) => der !== undefined && issuerKeyOf(der) === issuing.subjectKeyId
    : ({ issuer }) => issuer === text
}

/** The whole subject as it is shown, or one part of it; a comma that is part of a value has a backslash before it. */
const isNamed = ({ subject = '' }: CertificateRecord, text: string): boolean =>
  subject === text || subject.split(/(?<!\\), ?/).includes(text)

const issuerKeyOf = (der: string): string | undefined => parseCertificate(Buffer.from(der, 'base64')).authorityKeyId

function requireSerial(text: string | undefined) {
  const serial = serialNumber.safeParse(text?.toLowerCase())
  if (serial.success) return serial.data
  throw new FleetError('request_malformed', serial.error.issues[0]!.message)
}

function show({
  via: _via,
  label: _label,
  spkiHash,
  reservedAt: _reserved,
  der: _der,
  noticeAt: _notice,
  firstUsedFrom: _from,
  renews: _renews,
  nth: _nth,
  replacedBy: _replacedBy,
  ...rest
}: CertificateRecord): CertificateView {
  return { ...rest, key: spkiHash }
}

const showToken = ({ digest, spkiHash: _spki, spentAt: _spent, ...rest }: TokenRecord): TokenRecordView => ({
  id: digest,
  ...rest,
})
