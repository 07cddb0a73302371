import {
  type AboutPage,
  type AuditPage,
  type AuditSeal,
  aboutAudit,
  aboutPage,
  auditPage,
  auditSeal,
  type ChainPage,
  chainAudit,
  chainPage,
  listAudit,
  sealAudit,
} from '../../contract/audit-api.ts'
import { FleetError } from '../../runtime/errors.ts'
import { decodeAudit } from '../registry/audit-log.ts'
import { entriesAfter, lastEntries, placeBefore, startOf } from '../registry/audit-queries.ts'
import { listCheckpoints } from '../registry/checkpoints.ts'
import { fingerprintEntry } from '../registry/indexes.ts'
import type { Registry } from '../registry/registry.ts'
import { route } from './route.ts'

export const auditRoutes = [
  route({
    method: 'GET',
    path: '/v1/audit',
    role: 'viewer',
    summary: 'The audit log',
    answer: auditPage,
    query: listAudit,
    handle: async ({ query, signal, requireStanding }, { registry }): Promise<AuditPage> => {
      const { after, since, waitMs, ...wanted } = query
      const from = after ?? (since === undefined ? undefined : (await placeBefore(registry, since)).seq)
      const waiting = AbortSignal.any([signal, AbortSignal.timeout(waitMs)])
      let grown = registry.untilAuditGrows(waiting)
      let page = await (from === undefined ? lastEntries(registry, wanted) : entriesAfter(registry, from, wanted))
      while (page.items.length === 0 && (await grown)) {
        grown = registry.untilAuditGrows(waiting)
        page = await entriesAfter(registry, page.next, wanted)
        await requireStanding()
      }
      return page
    },
  }),
  route({
    method: 'GET',
    path: '/v1/audit/about',
    role: 'viewer',
    summary: 'All that the audit log says of one device or certificate',
    answer: aboutPage,
    problems: ['certificate_unknown'],
    query: aboutAudit,
    handle: async ({ query }, { registry }): Promise<AboutPage> => {
      const { device, fingerprint, after, limit } = query
      const serial = fingerprint === undefined ? query.serial : await serialOf(registry, fingerprint)
      const about = device === undefined ? `certificate:${serial}` : `device:${device}`
      const { items, ...next } = await registry.auditAbout(about, { after, limit })
      return { about, items: items.map(decodeAudit), ...next }
    },
  }),
  route({
    method: 'GET',
    path: '/v1/audit/seal',
    role: 'viewer',
    summary: 'Where the log, or a part of it, begins and ends, signed for this answer',
    answer: auditSeal,
    query: sealAudit,
    handle: async ({ query }, { registry, checkpoints, anchors }): Promise<AuditSeal> => {
      const { since, until } = query
      const from = since === undefined ? await startOf(registry) : await placeBefore(registry, since)
      const last = until === undefined ? (await registry.head()).audit : await placeBefore(registry, until)
      const to = last.seq < from.seq ? from : last
      return {
        log: { kind: 'log', format: 1, from, authorities: [...anchors] },
        to,
        seal: { kind: 'seal', ...(await checkpoints.seal({ from, to })) },
      }
    },
  }),
  route({
    method: 'GET',
    path: '/v1/audit/chain',
    role: 'viewer',
    summary: 'The log as it is stored, with its signatures',
    answer: chainPage,
    query: chainAudit,
    handle: ({ query: { after, limit } }, { registry }) => readChain(registry, after, limit),
  }),
]

/** @throws FleetError `certificate_unknown` */
async function serialOf(registry: Registry, fingerprint: string): Promise<string> {
  const [found] = (await registry.list('certificate', fingerprintEntry(fingerprint), { limit: 1 })).items
  if (found !== undefined) return found.doc.serial
  throw new FleetError('certificate_unknown', `there is no certificate with the fingerprint ${fingerprint}`)
}

/** Each checkpoint stands behind the entry that it is about; the one that a log begins with, at its beginning. */
async function readChain(registry: Registry, after: number, limit: number): Promise<ChainPage> {
  const entries = await registry.auditAfter(after, limit)
  const next = entries.at(-1)?.seq ?? after
  const start = await startOf(registry)
  const from = after === start.seq ? after : after + 1
  const items: ChainPage['items'] = []
  const checkpoints = await listCheckpoints(registry, { from, to: next })
  const checkpointsUpTo = (seq: number): void => {
    while (checkpoints[0] !== undefined && checkpoints[0].seq <= seq) {
      const { body, signature, certificate } = checkpoints.shift()!
      items.push({ kind: 'checkpoint', body, signature, certificate })
    }
  }
  checkpointsUpTo(after)
  for (const entry of entries) {
    items.push({ kind: 'entry', ...entry })
    checkpointsUpTo(entry.seq)
  }
  return { items, next }
}
