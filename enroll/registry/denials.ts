import type { Denial } from '../../contract/denials.ts'
import type { Page, Paging, Registry, Write } from './registry.ts'

/** A refused enrollment, and whom it is counted for. Its place is used again for another. */
export type DenialRecord = { slot: number; key: string; owner: string; view: Denial }

/** In id order. */
export const listDenials = (registry: Registry, paging: Paging): Promise<Page<DenialRecord>> =>
  registry.list('denial', { kind: 'denial' }, paging)

export const writeDenial = (doc: DenialRecord): Write => ({ kind: 'denial', id: `slot-${doc.slot}`, doc })
