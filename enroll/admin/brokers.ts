import {
  type BrokerView,
  brokerCredential,
  brokerForgotten,
  brokerList,
  createBroker as createBody,
} from '../../contract/broker-api.ts'
import { toPem } from '../../pki/certificate.ts'
import { FleetError } from '../../runtime/errors.ts'
import { type BrokerCertificate, createBroker, forgetBroker, listCertified } from '../ca/brokers.ts'
import { csrProblems, requestIn } from './csr.ts'
import { route } from './route.ts'

export const brokerRoutes = [
  route({
    method: 'GET',
    path: '/v1/brokers',
    role: 'viewer',
    summary: 'Brokers that follow this gateway, and those that may',
    answer: brokerList,
    handle: async (_input, { registry, feed, clock }) => {
      const joined = new Map((await feed.brokers()).map((broker) => [broker.id, broker]))
      const certified = await listCertified(registry, clock())
      const ids = [...new Set([...joined.keys(), ...certified.keys()])].toSorted()
      const items = ids.map(
        (id): BrokerView => ({ id, connected: false, ...joined.get(id), ...shown(certified.get(id)) }),
      )
      return { items }
    },
  }),
  route({
    method: 'POST',
    path: '/v1/brokers',
    role: 'admin',
    summary: 'Let another broker follow, and certify the key of a request for it',
    answer: brokerCredential,
    problems: ['conflict', ...csrProblems],
    status: 201,
    body: createBody,
    handle: async ({ body: { id, names, csr }, asked }, { registry, issuing, ownBroker }) => {
      if (id === ownBroker) {
        throw new FleetError(
          'conflict',
          `enroll keeps the credential of ${id} in its data folder, services/broker; take another name`,
        )
      }
      const made = await createBroker({ registry, issuing }, { id, names, csr: requestIn(csr) }, asked)
      return { id, ...shown(made), certificate: toPem(made.facts.der) + issuing.pem }
    },
  }),
  // Revocations wait for every broker that ever joined; one that was taken out of service for good has to be said so.
  route({
    method: 'DELETE',
    path: '/v1/brokers/:id',
    role: 'admin',
    summary: 'Wait no longer for a broker that was taken out of service, and revoke its certificates',
    answer: brokerForgotten,
    problems: ['not_found', 'conflict'],
    handle: async ({ params: { id = '' }, asked }, { registry, feed, ownBroker }) => {
      if (feed.isConnected(id)) throw new FleetError('conflict', `${id} is connected; stop it first`)
      return { id, ...(await forgetBroker(registry, { id, isKept: id === ownBroker }, asked)) }
    },
  }),
]

function shown(certificate: BrokerCertificate | undefined): Pick<BrokerView, 'names' | 'serial' | 'expiresAt'> {
  if (certificate === undefined) return { names: [] }
  const { record, names } = certificate
  return { names, serial: record.serial, expiresAt: record.notAfter! }
}
