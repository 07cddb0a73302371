import { pageOf } from '../../contract/admin-api.ts'
import {
  closeIncident as closeBody,
  type IncidentView,
  incidentView,
  listIncidents as listQuery,
} from '../../contract/incidents.ts'
import { closeIncident, getIncident } from '../ca/incidents.ts'
import { type IncidentRecord, listIncidents } from '../registry/incidents.ts'
import { readPage } from './paging.ts'
import { route } from './route.ts'

export const incidentRoutes = [
  route({
    method: 'GET',
    path: '/v1/incidents',
    role: 'viewer',
    summary: 'What somebody has to look at',
    answer: pageOf(incidentView),
    query: listQuery,
    handle: ({ query }, { registry }) =>
      readPage('incidents', query, (paging) => listIncidents(registry, { ...query, ...paging }), show),
  }),
  route({
    method: 'GET',
    path: '/v1/incidents/:id',
    role: 'viewer',
    summary: 'One incident, with its evidence',
    answer: incidentView,
    problems: ['not_found'],
    handle: async ({ params: { id = '' } }, { registry }) => show((await getIncident(registry, id)).doc),
  }),
  route({
    method: 'POST',
    path: '/v1/incidents/:id/close',
    role: 'operator',
    summary: 'Close it with a note',
    answer: incidentView,
    problems: ['not_found', 'conflict'],
    body: closeBody,
    handle: async ({ params: { id = '' }, body, asked }, { registry }) =>
      show(await closeIncident(registry, id, body.note, asked)),
  }),
]

const show = (doc: IncidentRecord): IncidentView => doc
