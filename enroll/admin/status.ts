import { readFileSync } from 'node:fs'
import { statusView } from '../../contract/admin-api.ts'
import { type ReloadReceipt, reloadReceipt } from '../../contract/reload-api.ts'
import { FleetError } from '../../runtime/errors.ts'
import { route } from './route.ts'

export const version: string = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')).version

export const statusRoute = route({
  method: 'GET',
  path: '/v1/status',
  role: 'viewer',
  summary: 'What runs here, and how far brokers have followed',
  answer: statusView,
  handle: async (_input, { registry, feed, lists, rootFingerprint, rootEnds, issuing, startedAt, configuration }) => ({
    version,
    startedAt: startedAt.toISOString(),
    rootFingerprint,
    authorities: { issuingEnds: issuing.certificate.notAfter.toISOString(), rootEnds: rootEnds.toISOString() },
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
  summary: 'Read the configuration file anew, here and at every broker',
  answer: reloadReceipt,
  problems: ['not_found', 'config_invalid'],
  handle: async ({ asked }, { reload, registry, feed, clock, configFile }): Promise<ReloadReceipt> => {
    if (reload === undefined)
      throw new FleetError('not_found', 'this service was started without a configuration to read')
    const { actor, remoteAddress, requestId } = asked
    const own = await reload({ actor, remoteAddress })
    if (own.refused !== undefined) throw new FleetError('config_invalid', own.refused)
    const { brokers, unheard } = await feed.questions.reload()
    // A broker has no audit log, and keeps what it said in its own log alone.
    const told = brokers.map(({ broker, refused, changed }) =>
      `${broker} ${refused ?? changed.join(' ')}`.slice(0, 500),
    )
    await registry.commit({
      requestId: `${requestId}-reload`,
      writes: [],
      audit: [
        {
          ...{ action: 'configuration.reloaded', actor, subject: 'brokers', outcome: 'done' },
          details: { brokers: told, unheard: unheard.map(({ broker, why }) => `${broker} ${why}`) },
          ...{ remoteAddress, requestId },
        },
      ],
      at: clock(),
    })
    return { ...own, ...(configFile !== undefined && { file: configFile }), brokers, unheard }
  },
})
