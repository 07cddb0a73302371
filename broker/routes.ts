import type { SessionStore } from './backends/session-store.ts'
import type { RouteIndex } from './wire/route-index.ts'

/** Brings the route index to what the store has for a client, wherever the two may have gone different ways. */
export async function restoreRoutes(
  store: Pick<SessionStore, 'subscriptions'>,
  index: RouteIndex,
  clientId: string,
): Promise<void> {
  const kept = await store.subscriptions(clientId)
  const filters = new Set(kept.map(({ filter }) => filter))
  for (const { filter } of index.filtersOf(clientId)) {
    if (!filters.has(filter)) index.remove(clientId, filter)
  }
  for (const { qos, ...rest } of kept) index.add({ clientId, granted: qos, ...rest })
}
