import { parseCertificate } from '../../pki/certificate.ts'
import { valuesOf } from '../../pki/names.ts'
import { type CertificateRecord, listOwn } from '../registry/certificates.ts'
import type { Stored } from '../registry/engine.ts'
import { findOperator } from '../registry/operators.ts'
import { type Registry, readAll } from '../registry/registry.ts'

/** Whom a certificate of an operator or a broker is for. */
export const nameIn = ({ der }: CertificateRecord): string =>
  valuesOf(parseCertificate(Buffer.from(der!, 'base64')).subject, 'CN')[0]!

/** Certificates with which somebody may do everything at this moment. */
export async function listInCharge(registry: Registry, now: Date): Promise<Stored<CertificateRecord>[]> {
  const all = await readAll((paging) => listOwn(registry, 'operator', paging))
  const good = all.filter(({ doc }) => doc.status === 'issued' && new Date(doc.notAfter!) > now)
  const operators = await Promise.all(good.map(({ doc }) => findOperator(registry, nameIn(doc))))
  return good.filter((_, at) => operators[at]?.doc.role === 'admin' && operators[at].doc.status === 'active')
}
