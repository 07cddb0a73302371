import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type SignedList, signList } from '../../pki/crl.ts'
import { openKeyFile } from '../../pki/keystore.ts'
import { importPublicKey } from '../../pki/public-key.ts'
import { readRevocationList } from '../../pki/revocation-list.ts'
import { writeFileAtomic } from '../../runtime/files.ts'
import type { Registry } from '../registry/registry.ts'
import { findListRecord, writeListRecord } from '../registry/revocation-lists.ts'
import { authorityName } from './distribution-points.ts'
import type { Hierarchy } from './hierarchy.ts'

/** The key that signs it is not meant to be here, so a list has to last. */
const validityMs = 366 * 86_400_000

/**
 * The root's list, about the CAs below it, none of which is revoked. It is signed while the root's key is there, again
 * when half of its time is over, and otherwise read from beside the root: `root.crl`.
 *
 * @param folder where `root.key` and `root.crt` are
 * @returns undefined when there is none, and no key to sign one with
 * @throws FleetError `key_unavailable`, `key_permissions`, `key_passphrase`, `data_damaged`
 */
export async function keepRootList(input: {
  folder: string
  registry: Registry
  hierarchy: Hierarchy
  passphrase: string | undefined
  now: Date
}): Promise<SignedList | undefined> {
  const { folder, registry, hierarchy, passphrase, now } = input
  const { certificate } = hierarchy.root
  const name = authorityName(certificate)
  const [file, keyFile] = [join(folder, 'root.crl'), join(folder, 'root.key')]
  const stored = await findListRecord(registry, name)
  const number = stored?.doc.number ?? 0
  if (existsSync(file)) {
    const der = readFileSync(file)
    const list = readRevocationList(der, [importPublicKey(certificate.publicKeySpki)])
    const left = list.nextUpdate.getTime() - now.getTime()
    if (left > validityMs / 2 || !existsSync(keyFile)) return { ...list, number, parts: [der], bytes: der.length }
  }
  if (!existsSync(keyFile)) return undefined
  const signer = openKeyFile(keyFile, passphrase)
  const requestId = `lists-${name}-${number + 1}`
  await registry.commit({
    requestId,
    writes: [writeListRecord(name, { number: number + 1, shards: 0 }, stored?.rev ?? 0)],
    audit: [
      {
        action: 'revocationLists.signed',
        actor: 'system',
        subject: `authority:${name}`,
        outcome: 'intended',
        details: { number: number + 1 },
        requestId,
      },
    ],
    at: now,
  })
  const nextUpdate = new Date(Math.min(now.getTime() + validityMs, certificate.notAfter.getTime()))
  const issuer = { certificate, signer }
  const list = await signList({ issuer, number: number + 1, thisUpdate: now, nextUpdate, entries: [] })
  writeFileAtomic(file, Buffer.concat(list.parts))
  return list
}
