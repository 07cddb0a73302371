import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Configuration } from '../contract/configuration.ts'
import { policyDocument, starterPolicy } from '../contract/policy-document.ts'
import { FleetError } from '../runtime/errors.ts'
import { readPassphrase, requireFolder, writeFileAtomic } from '../runtime/files.ts'
import type { Log } from '../runtime/log.ts'
import { parseYaml } from '../runtime/yaml.ts'
import { keepCredentials } from './ca/credentials.ts'
import { type Hierarchy, openHierarchy } from './ca/hierarchy.ts'
import { putPolicy } from './policy.ts'
import { openDatabase } from './registry/database.ts'
import { findPolicy } from './registry/policies.ts'
import { Registry } from './registry/registry.ts'
import { incompleteFile } from './restore.ts'

export type Foundation = AsyncDisposable & {
  registry: Registry
  hierarchy: Hierarchy
  passphrase: string | undefined
  /** Renews what is due. @returns whether any file was written */
  keep(): Promise<boolean>
}

const revokedCredential = 'a certificate was revoked; delete it and its key, and enroll makes another of each'

/**
 * What a gateway rests on before it serves anybody. Makes what a data folder lacks: the CAs, the service certificates, an
 * operator credential, a starter policy. What was cut short goes on where it stopped; nothing is made twice.
 *
 * @throws FleetError `data_in_use`, `data_damaged`, `key_permissions`, `key_passphrase`, `policy_invalid`
 */
export async function openFoundation(input: {
  config: Configuration
  dataDir: string
  clock: () => Date
  log: Log
}): Promise<Foundation> {
  const { config, dataDir, clock, log } = input
  const passphrase = readPassphrase(config.keys.passphraseFile)
  await using opened = new AsyncDisposableStack()

  requireWholeFolder(dataDir)
  const registry = opened.use(
    new Registry(await openDatabase(join(dataDir, 'enroll', 'registry')), (facts) => {
      // Whoever reads the log may be slow, and a line is written where it stands: brokers are to have heard before.
      setImmediate(() => {
        for (const { action, actor, subject, outcome, reason, requestId } of facts) {
          if (outcome === 'done') log.info({ event: action, actor, subject, reason, requestId }, 'recorded')
        }
      })
    }),
  )
  const { url: statusUrl } = config.enroll.status
  const folder = join(dataDir, 'enroll', 'ca')
  const hierarchy = await openHierarchy({ folder, registry, passphrase, now: clock(), statusUrl })
  const keep = async (): Promise<boolean> => {
    const { changed, revoked } = await keepCredentials({
      registry,
      hierarchy,
      passphrase,
      dataDir,
      names: config.names,
      brokerId: config.broker.id,
      hasResponder: statusUrl !== undefined,
      now: clock(),
    })
    for (const path of revoked) log.warn({ event: 'credentials.revoked', path }, revokedCredential)
    return changed
  }
  await keep()
  await firstPolicy(registry, join(dataDir, 'policy.yaml'), clock())
  const resources = opened.move()
  return { registry, hierarchy, passphrase, keep, [Symbol.asyncDispose]: () => resources.disposeAsync() }
}

/**
 * Makes the data folder, or sees that its heart is there: what would start anew beside the remains of another gateway is a
 * folder that was not mounted, and a second CA under the same name would lock every device out.
 */
function requireWholeFolder(dataDir: string): void {
  if (existsSync(join(dataDir, incompleteFile))) {
    throw new FleetError(
      'data_damaged',
      `a restore into ${dataDir} has not come to its end; empty it and restore again`,
    )
  }
  const heart = join(dataDir, 'enroll', 'registry')
  const remains = ['root.crt', 'services/enroll/tls.key', 'services/broker/tls.key', 'operator/operator.key']
  const found = remains.find((name) => existsSync(join(dataDir, name)))
  if (found !== undefined && !existsSync(heart)) {
    throw new FleetError(
      'data_damaged',
      `${join(dataDir, found)} is there, but ${heart} is not: without it nobody knows who was revoked. Mount or restore it, or start with another data folder`,
    )
  }
  requireFolder(dataDir)
}

async function firstPolicy(registry: Registry, path: string, now: Date): Promise<void> {
  if (await findPolicy(registry)) return
  if (!existsSync(path)) writeFileAtomic(path, starterPolicy)
  const document = parseYaml(readFileSync(path, 'utf8'), policyDocument, path, 'policy_invalid')
  await putPolicy(registry, document, { actor: 'system', remoteAddress: 'local', requestId: 'setup-policy', now })
}
