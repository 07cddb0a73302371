import type { PolicyDocument } from '../contract/policy-document.ts'
import type { Asked } from './registry/asked.ts'
import type { Stored } from './registry/engine.ts'
import { findPolicy, type PolicyRecord, writePolicy } from './registry/policies.ts'
import { atRevision, type Registry } from './registry/registry.ts'

/** Puts a checked document in force everywhere: its version, its audit entry and its feed event are one batch. @throws FleetError `precondition_failed` */
export function putPolicy(registry: Registry, document: PolicyDocument, asked: Asked): Promise<Stored<PolicyRecord>> {
  return atRevision(asked, async () => {
    const current = await findPolicy(registry)
    const expect = asked.ifMatch ?? current?.rev ?? 0
    const record: PolicyRecord = {
      version: (current?.doc.version ?? 0) + 1,
      document,
      at: asked.now.toISOString(),
      by: asked.actor,
    }
    const { replayed } = await registry.commit({
      requestId: `${asked.requestId}-policy`,
      digest: asked.digest,
      writes: [writePolicy(record, expect)],
      audit: [
        {
          action: 'policy.changed',
          actor: asked.actor,
          subject: `policy:${record.version}`,
          outcome: 'done',
          details: { statements: document.policies.map(({ name }) => name) },
          remoteAddress: asked.remoteAddress,
          requestId: asked.requestId,
        },
      ],
      feed: [{ type: 'policy.changed', data: { version: record.version, document } }],
      at: asked.now,
    })
    return replayed ? (await findPolicy(registry))! : { doc: record, rev: expect + 1 }
  })
}
