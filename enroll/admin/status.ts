import { readFileSync } from 'node:fs'
import { reloadReceipt, statusView } from '../../contract/admin-api.ts'
import { FleetError } from '../../runtime/errors.ts'
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

export const reloadRoute = route({
  method: 'POST',
  path: '/v1/configuration/reload',
  role: 'admin',
  summary: 'Read the configuration file anew',
  answer: reloadReceipt,
  problems: ['not_found', 'config_invalid'],
  handle: async (_input, { reload }) => {
    if (reload === undefined)
      throw new FleetError('not_found', 'this service was started without a configuration to read')
    const receipt = await reload()
    if (receipt.refused !== undefined) throw new FleetError('config_invalid', receipt.refused)
    return receipt
  },
})
