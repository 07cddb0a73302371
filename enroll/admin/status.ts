import { readFileSync } from 'node:fs'
import { statusView } from '../../contract/admin-api.ts'
import { route } from './route.ts'

export const version: string = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')).version

export const statusRoute = route({
  method: 'GET',
  path: '/v1/status',
  role: 'viewer',
  summary: 'What runs here, and how far brokers have followed',
  answer: statusView,
  handle: async (_input, { registry, feed, lists, rootFingerprint, startedAt, configuration }) => ({
    version,
    startedAt: startedAt.toISOString(),
    rootFingerprint,
    configuration: configuration(),
    feedSeq: (await registry.head()).feed.seq,
    ...(lists === undefined ? {} : { revocationLists: lists.published }),
    brokers: await feed.brokers(),
  }),
})
