import { closeIncident as closeBody, type IncidentView, listIncidents as listQuery } from '../../contract/incidents.ts'
import { closeIncident, getIncident } from '../ca/incidents.ts'
import { type IncidentRecord, listIncidents } from '../registry/incidents.ts'
import { route } from './route.ts'

export const incidentRoutes = [
  route({
    method: 'GET',
    path: '/v1/incidents',
    role: 'viewer',
    query: listQuery,
    handle: async ({ query }, { registry }) => {
      const { items, next } = await listIncidents(registry, query)
      return { items: items.map(({ doc }) => show(doc)), next }
    },
  }),
  route({
    method: 'GET',
    path: '/v1/incidents/:id',
    role: 'viewer',
    handle: async ({ params: { id = '' } }, { registry }) => show((await getIncident(registry, id)).doc),
  }),
  route({
    method: 'POST',
    path: '/v1/incidents/:id/close',
    role: 'operator',
    body: closeBody,
    handle: async ({ params: { id = '' }, body, asked }, { registry }) =>
      show(await closeIncident(registry, id, body.note, asked)),
  }),
]

const show = (doc: IncidentRecord): IncidentView => doc
