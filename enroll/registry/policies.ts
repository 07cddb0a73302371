import type { PolicyDocument } from '../../contract/policy-document.ts'
import type { Stored } from './engine.ts'
import type { Registry, Write } from './registry.ts'

/** The policy in force. Former versions stand in the feed as long as that is kept. */
export type PolicyRecord = { version: number; document: PolicyDocument; at: string; by: string }

const current = 'current'

export const findPolicy = (registry: Registry): Promise<Stored<PolicyRecord> | undefined> =>
  registry.find('policy', current)

/** @param expect the revision it was read at; 0: there must be none yet */
export const writePolicy = (doc: PolicyRecord, expect: number): Write => ({ kind: 'policy', id: current, expect, doc })
