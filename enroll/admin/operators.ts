import {
  changeOperator as changeBody,
  createOperator as createBody,
  listOperators as listQuery,
  type OperatorView,
} from '../../contract/operator-api.ts'
import { parsePem, toPem } from '../../pki/certificate.ts'
import { FleetError } from '../../runtime/errors.ts'
import { changeOperator, createOperator } from '../ca/operators.ts'
import { getOperator, listOperators, type OperatorRecord } from '../registry/operators.ts'
import { route } from './route.ts'

export const operatorRoutes = [
  route({
    method: 'GET',
    path: '/v1/operators',
    role: 'viewer',
    query: listQuery,
    handle: async ({ query }, { registry }) => {
      const { items, next } = await listOperators(registry, query)
      return { items: items.filter(({ doc }) => doc.status !== 'removed').map(({ doc }) => show(doc)), next }
    },
  }),
  route({
    method: 'GET',
    path: '/v1/operators/:name',
    role: 'viewer',
    handle: async ({ params: { name = '' } }, { registry }) => show((await getOperator(registry, name)).doc),
  }),
  route({
    method: 'POST',
    path: '/v1/operators',
    role: 'admin',
    status: 201,
    body: createBody,
    handle: async ({ body: { name, role, csr }, asked }, { registry, issuing }) => {
      const [der, ...more] = parsePem(csr, 'CERTIFICATE REQUEST')
      if (der === undefined || more.length > 0) {
        throw new FleetError('csr_malformed', 'csr is one certificate request in PEM')
      }
      const made = await createOperator({ registry, issuing }, { name, role, csr: der }, asked)
      return { ...show(made.operator), certificate: toPem(made.der) + issuing.pem }
    },
  }),
  route({
    method: 'PATCH',
    path: '/v1/operators/:name',
    role: 'admin',
    body: changeBody,
    handle: async ({ params: { name = '' }, body, asked }, { registry }) =>
      show(await changeOperator(registry, { name, change: body }, asked)),
  }),
  route({
    method: 'DELETE',
    path: '/v1/operators/:name',
    role: 'admin',
    handle: async ({ params: { name = '' }, asked }, { registry }) =>
      show(await changeOperator(registry, { name, change: { status: 'removed' } }, asked)),
  }),
]

const show = (doc: OperatorRecord): OperatorView => doc
