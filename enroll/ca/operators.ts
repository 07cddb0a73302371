import { randomBytes } from 'node:crypto'
import type { Role } from '../../contract/operator-api.ts'
import { issue, newSerialNumber, prepare } from '../../pki/certificate.ts'
import { parseCsr } from '../../pki/csr.ts'
import { buildName, formatName, parseName } from '../../pki/names.ts'
import { operatorProfile } from '../../pki/profile.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import type { Asked } from '../registry/asked.ts'
import type { AuditFact } from '../registry/audit-log.ts'
import { getCertificate, writeCertificate } from '../registry/certificates.ts'
import type { Stored } from '../registry/engine.ts'
import { findOperator, getOperator, listOperators, type OperatorRecord, writeOperator } from '../registry/operators.ts'
import { atRevision, type Registry, readAll, type Write } from '../registry/registry.ts'
import { findWatchedKey } from '../registry/watched-keys.ts'
import type { Authority } from './hierarchy.ts'
import { listInCharge } from './in-charge.ts'

/** Made at the first start, with a key in the data folder. */
export const firstOperator = 'operator'

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
 * Gives an operator another role or standing; its next request meets it.
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
): Promise<OperatorRecord> {
  return atRevision(asked, async () => {
    const known = await getOperator(registry, name)
    if (known.doc.status === 'removed') throw new FleetError('operator_unknown', `the operator ${name} was removed`)
    const doc: OperatorRecord = {
      ...known.doc,
      role: change.role ?? known.doc.role,
      status: change.status ?? known.doc.status,
    }
    const guard = isInCharge(known.doc) && !isInCharge(doc) ? [await anotherInCharge(registry, name)] : []
    const action = doc.status === 'removed' ? 'operator.removed' : 'operator.changed'
    const { replayed } = await registry.commit({
      requestId: `${asked.requestId}-operator`,
      digest: asked.digest,
      writes: [writeOperator(doc, asked.ifMatch ?? known.rev), ...guard],
      audit: [fact(action, doc, asked)],
      at: asked.now,
    })
    return replayed ? (await getOperator(registry, name)).doc : doc
  })
}

const isInCharge = ({ role, status }: OperatorRecord): boolean => role === 'admin' && status === 'active'

/** Written as it is: of two who take each other's role away at the same time, one loses. */
async function anotherInCharge(registry: Registry, name: string): Promise<Write> {
  const all: Stored<OperatorRecord>[] = await readAll((paging) => listOperators(registry, paging))
  const other = all.find(({ doc }) => doc.name !== name && isInCharge(doc))
  if (other !== undefined) return writeOperator(other.doc, other.rev)
  throw new FleetError('conflict', `${name} is the last operator with the role admin; make another first`, {
    context: { final: true },
  })
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
