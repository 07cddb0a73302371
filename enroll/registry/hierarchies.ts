import type { Stored } from './engine.ts'
import type { Registry, Write } from './registry.ts'

/** That there is a hierarchy of CAs, and whether its making came to its end. `name` tells one installation from another. */
export type HierarchyRecord = { name: string; complete: boolean }

const only = 'issuing'

export const findHierarchy = (registry: Registry): Promise<Stored<HierarchyRecord> | undefined> =>
  registry.find('hierarchy', only)

/** @param expect the revision it was read at; 0: there must be none yet */
export const writeHierarchy = (doc: HierarchyRecord, expect: number): Write => ({
  kind: 'hierarchy',
  id: only,
  expect,
  doc,
})
