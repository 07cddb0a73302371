import { type DenialPage, denialPage, listDenials as listQuery } from '../../contract/admin-api.ts'
import { byLastAt, type Denial, denialView, isDenialId } from '../../contract/denials.ts'
import { FleetError } from '../../runtime/errors.ts'
import { route } from './route.ts'

export const denialRoutes = [
  route({
    method: 'GET',
    path: '/v1/denials',
    role: 'viewer',
    summary: 'What was refused lately, here and by each broker',
    answer: denialPage,
    query: listQuery,
    handle: async ({ query }, { feed, denials }): Promise<DenialPage> => {
      const { items, unheard } = await feed.questions.denials(query)
      return { items: [...items, ...denials.list(query)].toSorted(byLastAt).slice(0, query.limit), unheard }
    },
  }),
  route({
    method: 'GET',
    path: '/v1/denials/:id',
    role: 'viewer',
    summary: 'One refusal, with what it takes to explain it',
    answer: denialView,
    problems: ['denial_unknown'],
    handle: async ({ params: { id = '' } }, { feed, denials }): Promise<Denial> => {
      if (!isDenialId(id)) throw new FleetError('request_malformed', 'a denial id is 12 lower-case hex digits')
      const own = denials.find(id)
      if (own !== undefined) return own
      const { items, unheard } = await feed.questions.denials({ id, limit: 1 })
      if (items[0] !== undefined) return items[0]
      const away = unheard.length === 0 ? '' : `; ${unheard.join(', ')} cannot be asked now`
      throw new FleetError('denial_unknown', `no denial ${id} is kept${away}`)
    },
  }),
]
