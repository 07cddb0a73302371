import { brokerForgotten } from '../../contract/admin-api.ts'
import { FleetError } from '../../runtime/errors.ts'
import { forgetBroker } from '../registry/brokers.ts'
import { route } from './route.ts'

export const brokerRoutes = [
  // Revocations wait for every broker that ever joined; one that was taken out of service for good has to be said so.
  route({
    method: 'DELETE',
    path: '/v1/brokers/:id',
    role: 'admin',
    summary: 'Wait no longer for a broker that was taken out of service',
    answer: brokerForgotten,
    problems: ['not_found', 'conflict'],
    handle: async ({ params, asked }, { registry, feed }) => {
      const id = params.id ?? ''
      if (feed.isConnected(id)) throw new FleetError('conflict', `${id} is connected; stop it first`)
      await forgetBroker(registry, id, asked)
      return { id }
    },
  }),
]
