import { randomBytes } from 'node:crypto'
import type { Role } from '../../contract/operator-api.ts'
import { issue, newSerialNumber, prepare } from '../../pki/certificate.ts'
import { parseCsr } from '../../pki/csr.ts'
import { buildName, formatName, parseName } from '../../pki/names.ts'
import { operatorProfile } from '../../pki/profile.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import { type ApiTokenRecord, listApiTokens } from '../registry/api-tokens.ts'
import type { Asked } from '../registry/asked.ts'
import type { AuditFact } from '../registry/audit-log.ts'
import { type CertificateRecord, getCertificate, listOwn, writeCertificate } from '../registry/certificates.ts'
import type { Stored } from '../registry/engine.ts'
import { findOperator, getOperator, listOperators, type OperatorRecord, writeOperator } from '../registry/operators.ts'
import { atRevision, type Registry, readAll, type Write } from '../registry/registry.ts'
import { findWatchedKey } from '../registry/watched-keys.ts'
import { credentialRevoked } from './credential-revocation.ts'
import type { Authority } from './hierarchy.ts'
import { listInCharge, nameIn } from './in-charge.ts'
import { isLive, revokedCertificate } from './revocation.ts'

/** Made at the first start, with a key in the data folder. */
export const firstOperator = 'operator'
const whenRemoved = 'cessationOfOperation'

/**
 * Makes the first operator where there is none at all: whoever holds the data folder is in charge. It comes back, with all it may,
 * where somebody has deleted its files and nobody is in charge.
 *
 * @param isThere its credential is in the data folder
 * @returns whether its credential is to be kept
 */
export async function keepFirstOperator(registry: Registry, isThere: boolean, now: Date): Promise<boolean> {
  const known = await findOperator(registry, firstOperator)
  const isLocked = async () => !isThere && (await listInCharge(registry, now)).length === 0
  if (known !== undefined && (isInCharge(known.doc) || !(await isLocked()))) return known.doc.status !== 'removed'
  const first: OperatorRecord = {
    name: firstOperator,
    role: 'admin',
    status: 'active',
    createdAt: now.toISOString(),
    createdBy: 'system',
  }
  const doc: OperatorRecord = known === undefined ? first : { ...known.doc, role: 'admin', status: 'active' }
  const requestId = `setup-operator${known === undefined ? '' : `-${known.rev}`}`
  await registry.commit({
    requestId,
    writes: [writeOperator(doc, known?.rev ?? 0)],
    audit: [fact(known === undefined ? 'operator.created' : 'operator.restored', doc, { actor: 'system', requestId })],
    at: now,
  })
  return true
}

/**
 * Makes an operator and certifies its key, in one batch. What the request names as its subject is not looked at.
 *
 * @returns the operator, and DER of its certificate
 * @throws FleetError `operator_exists`, also of a name that was removed; `key_compromised` and the faults of a request
 */
export async function createOperator(
  { registry, issuing }: { registry: Registry; issuing: Authority },
  { name, role, csr }: { name: string; role: Role; csr: Buffer },
  asked: Asked,
): Promise<{ operator: OperatorRecord; der: Buffer }> {
  const { now, actor } = asked
  const request = parseCsr(csr)
  if ((await findWatchedKey(registry, request.spkiHash)) !== undefined) {
    throw new FleetError('key_compromised', 'the key of this request was reported as compromised; make a new one')
  }
  const subject = buildName({ commonName: name })
  const prepared = prepare({
    profile: operatorProfile,
    issuer: issuing,
    serial: newSerialNumber(randomBytes),
    subject,
    subjectAltName: {},
    publicKeySpki: request.publicKeySpki,
    notBefore: now,
    notAfter: new Date(now.getTime() + operatorProfile.validityMs),
  })
  const made = await issue(prepared)
  const at = now.toISOString()
  const doc: OperatorRecord = {
    ...{ name, role, status: 'active', createdAt: at, createdBy: actor },
    ...{ serial: made.serial, expiresAt: made.notAfter.toISOString() },
  }
  const certificate = writeCertificate(
    {
      serial: made.serial,
      kind: 'operator',
      profile: operatorProfile.name,
      status: 'issued',
      spkiHash: request.spkiHash,
      reservedAt: at,
      fingerprint: made.fingerprint,
      der: made.der.toString('base64'),
      subject: formatName(parseName(subject)),
      notBefore: made.notBefore.toISOString(),
      notAfter: made.notAfter.toISOString(),
      issuedAt: at,
      via: 'operator',
    },
    0,
  )
  try {
    const { replayed } = await registry.commit({
      requestId: `${asked.requestId}-operator`,
      digest: asked.digest,
      writes: [writeOperator(doc, 0), certificate],
      audit: [
        fact('operator.created', doc, asked),
        {
          ...fact('certificate.issued', doc, asked),
          subject: `certificate:${made.serial}`,
          details: { kind: 'operator', name, notAfter: doc.expiresAt! },
        },
      ],
      at: now,
    })
    if (!replayed) return { operator: doc, der: made.der }
  } catch (cause) {
    if (!isFleetError(cause, 'conflict') || cause.context.final) throw cause
    throw new FleetError('operator_exists', `there is or was an operator ${name}; a name is given once`, { cause })
  }
  const { doc: operator } = await getOperator(registry, name)
  const { doc: first } = await getCertificate(registry, operator.serial!)
  return { operator, der: Buffer.from(first.der!, 'base64') }
}

/**
 * Gives an operator another role or standing; its next request meets it. With one that is removed its certificates end.
 *
 * @throws FleetError `operator_unknown`, `conflict` where nobody would be left who may do everything
 */
export function changeOperator(
  registry: Registry,
  {
    name,
    change,
  }: { name: string; change: { role?: Role | undefined; status?: OperatorRecord['status'] | undefined } },
  asked: Asked,
): Promise<Stored<OperatorRecord>> {
  return atRevision(asked, async () => {
    const known = await getOperator(registry, name)
    const request = { requestId: `${asked.requestId}-operator`, digest: asked.digest }
    if (known.doc.status === 'removed') {
      if ((await registry.findReceipt(request)) !== undefined) return known
      throw new FleetError('operator_unknown', `the operator ${name} was removed`)
    }
    const doc: OperatorRecord = {
      ...known.doc,
      role: change.role ?? known.doc.role,
      status: change.status ?? known.doc.status,
    }
    const guard = isInCharge(known.doc) && !isInCharge(doc) ? await anotherInCharge(registry, name, asked.now) : []
    const isRemoval = doc.status === 'removed'
    const ended = isRemoval ? (await certificatesOf(registry, name)).filter(isLive) : []
    const changed = fact(isRemoval ? 'operator.removed' : 'operator.changed', doc, asked)
    const certificates = ended.map((one) => one.doc.serial)
    const revokedAt = asked.now.toISOString()
    const expect = asked.ifMatch ?? known.rev
    const { replayed } = await registry.commit({
      ...request,
      writes: [
        writeOperator(doc, expect),
        ...guard,
        ...ended.map((one) => writeCertificate(revokedCertificate(one.doc, whenRemoved, revokedAt), one.rev)),
      ],
      audit: [isRemoval ? { ...changed, details: { ...changed.details, certificates } } : changed],
      feed: ended.map(({ doc }) => credentialRevoked(doc, { kind: 'operator', name, reason: whenRemoved })),
      at: asked.now,
    })
    return replayed ? getOperator(registry, name) : { doc, rev: expect + 1 }
  })
}

/** The serial numbers of all certificates of an operator, and the API tokens that it made and that are still good. */
export async function listLeftBehind(
  registry: Registry,
  name: string,
  now: Date,
): Promise<{ certificates: string[]; apiTokens: ApiTokenRecord[] }> {
  const certificates = (await certificatesOf(registry, name)).map(({ doc }) => doc.serial)
  const tokens = await readAll((paging) => listApiTokens(registry, paging))
  const theirs = tokens.filter(({ doc }) => doc.createdBy === `operator:${name}` && new Date(doc.expiresAt) > now)
  return { certificates, apiTokens: theirs.map(({ doc }) => doc) }
}

const certificatesOf = async (registry: Registry, name: string): Promise<Stored<CertificateRecord>[]> =>
  (await readAll((paging) => listOwn(registry, 'operator', paging))).filter(({ doc }) => nameIn(doc) === name)

const isInCharge = ({ role, status }: OperatorRecord): boolean => role === 'admin' && status === 'active'

/**
 * Written as they are: of two who take each other's role or certificate away at the same time, one loses. Who has the role and no
 * certificate that is good is nobody to rely on, unless nobody has one.
 */
async function anotherInCharge(registry: Registry, name: string, now: Date): Promise<Write[]> {
  const good = await listInCharge(registry, now)
  const certificate = good.find(({ doc }) => nameIn(doc) !== name)
  const isMeant = ({ doc }: Stored<OperatorRecord>): boolean =>
    certificate === undefined
      ? good.length === 0 && doc.name !== name && isInCharge(doc)
      : doc.name === nameIn(certificate.doc)
  const all: Stored<OperatorRecord>[] = await readAll((paging) => listOperators(registry, paging))
  const operator = all.find(isMeant)
  if (operator === undefined) {
    const sentence = `${name} is the last operator with the role admin and a certificate that is good; make another first`
    throw new FleetError('conflict', sentence, { context: { final: true } })
  }
  const known = certificate === undefined ? [] : [writeCertificate(certificate.doc, certificate.rev)]
  return [writeOperator(operator.doc, operator.rev), ...known]
}

const fact = (
  action: string,
  { name, role, status }: OperatorRecord,
  { actor, remoteAddress, requestId }: Pick<Asked, 'actor' | 'requestId'> & { remoteAddress?: string },
): AuditFact => ({
  action,
  actor,
  subject: `operator:${name}`,
  outcome: 'done',
  details: { role, status },
  ...(remoteAddress === undefined ? {} : { remoteAddress }),
  requestId,
})
