import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join, relative, sep } from 'node:path'
import type { Configuration } from '../contract/configuration.ts'
import type { SetUpSummary } from '../contract/set-up.ts'
import { parsePem } from '../pki/certificate.ts'
import { isFleetError } from '../runtime/errors.ts'
import type { Log } from '../runtime/log.ts'
import { openFoundation } from './foundation.ts'

/**
 * Makes what a data folder lacks, and serves nobody.
 *
 * @throws FleetError as `openFoundation`, but for the folder of a gateway that runs
 */
export async function initialize(input: {
  config: Configuration
  dataDir: string
  clock: () => Date
  log: Log
}): Promise<SetUpSummary> {
  const { dataDir } = input
  const before = filesOf(dataDir)
  try {
    await using _ = await openFoundation(input)
  } catch (error) {
    // Whoever has it open made what it lacked before serving; here it may be called at each start of a gateway.
    if (!isFleetError(error, 'data_in_use') || !existsSync(join(dataDir, 'root.crt'))) throw error
    return { rootFingerprint: fingerprintIn(dataDir), running: true, made: [], renewed: [] }
  }
  const after = filesOf(dataDir)
  const names = [...after.keys()].sort()
  return {
    rootFingerprint: fingerprintIn(dataDir),
    running: false,
    made: names.filter((name) => !before.has(name)),
    renewed: names.filter((name) => before.has(name) && before.get(name) !== after.get(name)),
  }
}

function fingerprintIn(dataDir: string): string {
  const [der] = parsePem(readFileSync(join(dataDir, 'root.crt'), 'utf8'), 'CERTIFICATE')
  return createHash('sha256').update(der!).digest('hex')
}

const folders = ['', 'enroll/ca', 'services/enroll', 'services/broker', 'services/audit', 'services/status', 'operator']

/** What an operator may have to copy, hand over or put away, by path below `dataDir`; a file that was written anew is another inode. */
function filesOf(dataDir: string): Map<string, number> {
  const found = folders.flatMap((folder) => {
    const at = join(dataDir, folder)
    if (!statSync(at, { throwIfNoEntry: false })?.isDirectory()) return []
    return readdirSync(at, { withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(at, entry.name))
  })
  return new Map(found.map((path) => [relative(dataDir, path).replaceAll(sep, '/'), statSync(path).ino]))
}
