/** A registry on a folder that goes with it. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openDatabase } from '../../../enroll/registry/database.ts'
import { Registry, type Write } from '../../../enroll/registry/registry.ts'
import { at } from '../../suites/registry.ts'

export async function withRegistry(body: (registry: Registry) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-registry-'))
  try {
    await using registry = new Registry(await openDatabase(folder))
    await body(registry)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

let commits = 0
export const put = (registry: Registry, ...writes: Write[]): Promise<unknown> =>
  registry.commit({ requestId: `put-${commits++}`, writes, audit: [], at })
