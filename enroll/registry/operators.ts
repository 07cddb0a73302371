import type { Role } from '../../contract/operator-api.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { Stored } from './engine.ts'
import type { Page, Paging, Registry, Write } from './registry.ts'

/** Who may use the admin API with a certificate. One that was removed stays: the audit log names who did what by it. */
export type OperatorRecord = {
  /** The common name of the certificates. */
  name: string
  role: Role
  status: 'active' | 'disabled' | 'removed'
  createdAt: string
  createdBy: string
  /** Of the newest certificate. */
  serial?: string
  expiresAt?: string
  /** The last ones that somebody asked for as a renewal, each until it is shown: then those end that were good when it was made. */
  renewals?: { serial: string; before: string[] }[]
}

export const findOperator = (registry: Registry, name: string): Promise<Stored<OperatorRecord> | undefined> =>
  registry.find('operator', name)

/** @throws FleetError `operator_unknown` */
export async function getOperator(registry: Registry, name: string): Promise<Stored<OperatorRecord>> {
  const operator = await findOperator(registry, name)
  if (operator !== undefined) return operator
  throw new FleetError('operator_unknown', `there is no operator ${name.slice(0, 64)}`, { context: { unknown: name } })
}

/** In order of name, removed ones too unless those that are there are asked for. */
export const listOperators = (
  registry: Registry,
  { isThere = false, ...paging }: { isThere?: boolean } & Paging,
): Promise<Page<OperatorRecord>> =>
  registry.list('operator', { kind: 'operator' }, paging, ({ status }) => !isThere || status !== 'removed')

/** @param expect the revision it was read at; 0: it must not exist */
export const writeOperator = (doc: OperatorRecord, expect: number): Write => ({
  kind: 'operator',
  id: doc.name,
  expect,
  doc,
})
