import type { Role } from '../../contract/operator-api.ts'
import { parseCsr } from '../../pki/csr.ts'
import { operatorProfile } from '../../pki/profile.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import { type ApiTokenRecord, listApiTokens } from '../registry/api-tokens.ts'
import type { Asked } from '../registry/asked.ts'
import type { AuditFact } from '../registry/audit-log.ts'
import { type CertificateRecord, listOwn, writeCertificate } from '../registry/certificates.ts'
import type { Stored } from '../registry/engine.ts'
import { findOperator, getOperator, listOperators, type OperatorRecord, writeOperator } from '../registry/operators.ts'
import { atRevision, type Registry, readAll, untilNoConflict, type Write } from '../registry/registry.ts'
import { credentialRevoked } from './credential-revocation.ts'
import type { Authority } from './hierarchy.ts'
import { listInCharge, nameIn } from './in-charge.ts'
import { byWhom, issuedFact, type OwnCertificate, requireUnwatched, signOwn } from './own-certificates.ts'
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

type Certified = { operator: OperatorRecord; der: Buffer }
type Issuer = { registry: Registry; issuing: Authority }

/**
 * Makes an operator and certifies its key, in one batch. What the request names as its subject is not looked at.
 *
 * @returns the operator, and DER of its certificate
 * @throws FleetError `operator_exists`, also of a name that was removed; `key_compromised` and the faults of a request
 */
export async function createOperator(
  { registry, issuing }: Issuer,
  { name, role, csr }: { name: string; role: Role; csr: Buffer },
  asked: Asked,
): Promise<Certified> {
  const { now, actor } = asked
  const made = await certify({ registry, issuing }, name, csr, now)
  const doc: OperatorRecord = {
    ...{ name, role, status: 'active', createdAt: now.toISOString(), createdBy: actor },
    ...newestIs(made.record),
  }
  try {
    const { replayed } = await registry.commit({
      requestId: `${asked.requestId}-operator`,
      digest: asked.digest,
      writes: [writeOperator(doc, 0), writeCertificate(made.record, 0)],
      absent: [{ kind: 'watchedKey', id: made.record.spkiHash }],
      audit: [fact('operator.created', doc, asked), issuedFact(made.record, byWhom(asked), { name })],
      at: now,
    })
    return replayed ? answerBefore(registry, name, made.record) : { operator: doc, der: made.der }
  } catch (cause) {
    if (!isFleetError(cause, 'conflict') || cause.context.final) throw cause
    await requireUnwatched(registry, made.record.spkiHash)
    throw new FleetError('operator_exists', `there is or was an operator ${name}; a name is given once`, { cause })
  }
}

/** Of renewals that nobody has shown, and of the certificates that one of them ends. */
const unshownAtMost = 8
const endedAtMost = 100

/**
 * Certifies another key of an operator. The certificates before it are good until the new one is shown: an answer that is lost
 * locks nobody out.
 *
 * @throws FleetError `operator_unknown`, `key_compromised` and the faults of a request
 */
export async function renewOperator(
  { registry, issuing }: Issuer,
  { name, csr }: { name: string; csr: Buffer },
  asked: Asked,
): Promise<Certified> {
  await getOperator(registry, name)
  const made = await certify({ registry, issuing }, name, csr, asked.now)
  return untilNoConflict(async () => {
    await requireUnwatched(registry, made.record.spkiHash)
    const known = await getOperator(registry, name)
    if (known.doc.status === 'removed') throw new FleetError('operator_unknown', `the operator ${name} was removed`)
    const { renewals = [] } = known.doc
    const good = (await certificatesOf(registry, name)).filter(isLive).map((one) => one.doc.serial)
    const renewal = { serial: made.record.serial, before: good.slice(-endedAtMost) }
    const doc: OperatorRecord = {
      ...known.doc,
      ...newestIs(made.record),
      renewals: [...renewals, renewal].slice(-unshownAtMost),
    }
    const { replayed } = await registry.commit({
      requestId: `${asked.requestId}-renewal`,
      digest: asked.digest,
      writes: [writeOperator(doc, known.rev), writeCertificate(made.record, 0)],
      absent: [{ kind: 'watchedKey', id: made.record.spkiHash }],
      audit: [issuedFact(made.record, byWhom(asked), { name, before: known.doc.serial ?? '' })],
      at: asked.now,
    })
    return replayed ? answerBefore(registry, name, made.record) : { operator: doc, der: made.der }
  })
}

/**
 * An operator has shown the certificate of a renewal: those end that were good when it was made, whatever the clock said. One that was made
 * since stays: another renewal, whose answer may be lost, and what enroll makes by itself for the first operator.
 */
export const supersedeOperatorCertificates = (
  registry: Registry,
  { name, shown }: { name: string; shown: string },
  by: { remoteAddress: string; requestId: string; now: Date },
): Promise<void> =>
  untilNoConflict(async () => {
    const { doc, rev } = await getOperator(registry, name)
    const { renewals = [], ...used } = doc
    const at = renewals.findIndex(({ serial }) => serial === shown)
    // Another request may have come in between, with the same certificate.
    if (at < 0) return
    const { before } = renewals[at]!
    const former = (await certificatesOf(registry, name)).filter(
      (one) => isLive(one) && before.includes(one.doc.serial),
    )
    const unshown = renewals.slice(at + 1)
    const reason = 'superseded'
    const { remoteAddress, requestId, now } = by
    await registry.commit({
      requestId: `${requestId}-supersede`,
      writes: [
        writeOperator(unshown.length === 0 ? used : { ...used, renewals: unshown }, rev),
        ...former.map((one) => writeCertificate(revokedCertificate(one.doc, reason, now.toISOString()), one.rev)),
      ],
      audit: [
        {
          ...{ action: 'operator.renewed', actor: `operator:${name}`, subject: `operator:${name}`, outcome: 'done' },
          details: { serial: shown, superseded: former.map((one) => one.doc.serial) },
          ...{ remoteAddress, requestId },
        },
      ],
      feed: former.map((one) => credentialRevoked(one.doc, { kind: 'operator', name, reason })),
      at: now,
    })
  })

/** @throws FleetError `key_compromised` and the faults of a request */
async function certify({ registry, issuing }: Issuer, name: string, csr: Buffer, now: Date): Promise<OwnCertificate> {
  const { publicKeySpki, spkiHash } = parseCsr(csr)
  await requireUnwatched(registry, spkiHash)
  const profile = operatorProfile
  return signOwn(
    issuing,
    { kind: 'operator', profile, commonName: name, names: [], publicKeySpki, via: 'operator' },
    now,
  )
}

const newestIs = ({ serial, notAfter }: CertificateRecord): Pick<OperatorRecord, 'serial' | 'expiresAt'> => ({
  serial,
  expiresAt: notAfter!,
})

/** What a request that comes again was answered with, whatever other keys have been certified since. */
async function answerBefore(registry: Registry, name: string, { spkiHash }: CertificateRecord): Promise<Certified> {
  const { doc: operator } = await getOperator(registry, name)
  const made = (await certificatesOf(registry, name)).findLast(({ doc }) => doc.spkiHash === spkiHash)
  if (made === undefined) throw new FleetError('conflict', 'the certificate that this was answered with is gone')
  return { operator, der: Buffer.from(made.doc.der!, 'base64') }
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
