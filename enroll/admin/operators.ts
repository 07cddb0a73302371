import { pageOf } from '../../contract/admin-api.ts'
import {
  changeOperator as changeBody,
  createOperator as createBody,
  listOperators as listQuery,
  type OperatorView,
  operatorCredential,
  operatorView,
  removedOperator,
  renewOperator as renewBody,
} from '../../contract/operator-api.ts'
import { toPem } from '../../pki/certificate.ts'
import { changeOperator, createOperator, listLeftBehind, renewOperator } from '../ca/operators.ts'
import { getOperator, listOperators, type OperatorRecord } from '../registry/operators.ts'
import { csrProblems, requestIn } from './csr.ts'
import { readPage } from './paging.ts'
import { type AdminContext, type Route, route } from './route.ts'

export const operatorRoutes = [
  route({
    method: 'GET',
    path: '/v1/operators',
    role: 'viewer',
    summary: 'Operators',
    answer: pageOf(operatorView),
    query: listQuery,
    handle: ({ query }, { registry }) =>
      readPage('operators', query, (paging) => listOperators(registry, { ...paging, isThere: true }), show),
  }),
  route({
    method: 'GET',
    path: '/v1/operators/:name',
    role: 'viewer',
    summary: 'One of them',
    answer: operatorView,
    problems: ['operator_unknown'],
    handle: async ({ params: { name = '' }, tag }, { registry }) => {
      const { doc, rev } = await getOperator(registry, name)
      tag(rev)
      return show(doc)
    },
  }),
  route({
    method: 'POST',
    path: '/v1/operators',
    role: 'admin',
    summary: 'Make an operator, and certify the key of a request',
    answer: operatorCredential,
    problems: ['operator_exists', 'conflict', ...csrProblems],
    status: 201,
    body: createBody,
    handle: async ({ body: { name, role, csr }, asked }, { registry, issuing }) => {
      const made = await createOperator({ registry, issuing }, { name, role, csr: requestIn(csr) }, asked)
      return { ...show(made.operator), certificate: toPem(made.der) + issuing.pem }
    },
  }),
  route({
    method: 'POST',
    path: '/v1/operators/:name/renew',
    role: 'viewer',
    roleForOthers: 'admin',
    summary:
      'Certify another key of an operator, oneself or, as admin, anybody; the certificates before end once the new one is used',
    answer: operatorCredential,
    problems: ['operator_unknown', 'conflict', ...csrProblems],
    status: 201,
    body: renewBody,
    handle: async ({ params: { name = '' }, body: { csr }, asked }, { registry, issuing }) => {
      const made = await renewOperator({ registry, issuing }, { name, csr: requestIn(csr) }, asked)
      return { ...show(made.operator), certificate: toPem(made.der) + issuing.pem }
    },
  }),
  route({
    method: 'PATCH',
    path: '/v1/operators/:name',
    role: 'admin',
    summary: 'Give another role, disable or enable',
    answer: operatorView,
    conditional: true,
    problems: ['precondition_failed', 'operator_unknown', 'conflict'],
    body: changeBody,
    handle: ({ params: { name = '' }, body, ...input }, context) => change(name, body, input, context),
  }),
  route({
    method: 'DELETE',
    path: '/v1/operators/:name',
    role: 'admin',
    summary: 'Remove an operator for good, and revoke its certificates',
    answer: removedOperator,
    conditional: true,
    problems: ['precondition_failed', 'operator_unknown', 'conflict'],
    handle: async ({ params: { name = '' }, ...input }, context) => {
      const view = await change(name, { status: 'removed' }, input, context)
      const { certificates, apiTokens } = await listLeftBehind(context.registry, name, input.asked.now)
      return {
        ...{ ...view, certificates },
        apiTokens: apiTokens.map(({ name, role, expiresAt }) => ({ name, role, expiresAt })),
      }
    },
  }),
]

/** Who may nothing any more is not connected any more. */
async function change(
  name: string,
  wanted: Parameters<typeof changeOperator>[1]['change'],
  { asked, socket, tag }: Pick<Parameters<Route['handle']>[0], 'asked' | 'socket' | 'tag'>,
  { registry, peers }: AdminContext,
): Promise<OperatorView> {
  const { doc: operator, rev } = await changeOperator(registry, { name, change: wanted }, asked)
  tag(rev)
  if (operator.status !== 'active') await peers.end((peer) => peer.edge === 'admin' && peer.name === name, socket)
  return show(operator)
}

const show = ({ renewals: _, ...doc }: OperatorRecord): OperatorView => doc
