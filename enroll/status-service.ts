import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { OcspAnswerKind } from '../contract/metrics.ts'
import type { StatusSettings } from '../contract/service-settings.ts'
import { parseCertificate, parsePem } from '../pki/certificate.ts'
import type { SignedList } from '../pki/crl.ts'
import { openKeyFile } from '../pki/keystore.ts'
import type { OcspSigner } from '../pki/ocsp.ts'
import type { Log } from '../runtime/log.ts'
import { CrlPublisher } from './ca/crl-publisher.ts'
import { DistributionPoints, pointsOfRoot } from './ca/distribution-points.ts'
import type { Hierarchy } from './ca/hierarchy.ts'
import { OcspResponder } from './ca/ocsp-responder.ts'
import type { ServedList } from './ca/revocation-lists.ts'
import { keepRootList } from './ca/root-list.ts'
import { ListReaders } from './list-readers.ts'
import type { Registry } from './registry/registry.ts'
import { createStatus, type Published } from './status.ts'

export type StatusService = AsyncDisposable & {
  address: { host: string; port: number }
  points: DistributionPoints
  lists: CrlPublisher
  /** Every list that can be fetched now. */
  served(): ServedList[]
  /** To be called now and then: the responder's certificate may have been renewed, the root's list may be due. */
  keepUp(): Promise<void>
}

const warnBeforeMs = 60 * 86_400_000

/**
 * What outsiders are told about the status of certificates: the lists of the issuing CA and of the root, a responder, and
 * the port that serves them. The responder's credential is there already.
 *
 * @param folder where the CAs are
 * @throws FleetError `port_in_use`, `data_damaged`, `key_permissions`, `key_passphrase`
 */
export async function openStatus(input: {
  settings: StatusSettings
  folder: string
  dataDir: string
  registry: Registry
  hierarchy: Hierarchy
  passphrase: string | undefined
  /** Hears of each OCSP answer. */
  answered: (kind: OcspAnswerKind) => void
  clock: () => Date
  log: Log
}): Promise<StatusService> {
  const { settings, dataDir, registry, hierarchy, passphrase, answered, clock, log } = input
  const { issuing, root } = hierarchy
  const { url, shards, everyMs, overlapMs, ocspValidityMs } = settings
  await using opened = new AsyncDisposableStack()
  const points = new DistributionPoints(issuing.certificate, { url, shards, hasResponder: true })
  const keptIn = join(dataDir, 'enroll', 'lists', points.name)
  const lists = opened.use(
    new CrlPublisher({ registry, issuer: issuing, points, everyMs, overlapMs, keptIn, clock, log }),
  )
  let rootList: SignedList | undefined
  const keepRoot = async (): Promise<void> => {
    const now = clock()
    rootList = await keepRootList({ ...input, now })
    const nextUpdate = rootList?.nextUpdate
    if (nextUpdate !== undefined && nextUpdate.getTime() - now.getTime() > warnBeforeMs) return
    log.error(
      { event: 'revocationLists.rootEnding', nextUpdate },
      'the revocation list of the root ends: put root.key back for one start',
    )
  }
  await keepRoot()

  const credential = join(dataDir, 'services', 'status')
  const signer = openKeyFile(join(credential, 'ocsp.key'), passphrase)
  const readSigner = (): OcspSigner => {
    const [der] = parsePem(readFileSync(join(credential, 'ocsp.crt'), 'utf8'), 'CERTIFICATE')
    return { certificate: parseCertificate(der!), signer }
  }
  let current = readSigner()
  const responder = { authority: issuing.certificate, isOf: points.isOf.bind(points), signer: () => current }
  const ocsp = new OcspResponder(registry, [responder], {
    validityMs: ocspValidityMs,
    isCurrent: () => lists.isCurrent,
  })
  lists.onChange((serial) => ocsp.forget(serial))

  const rootPoints = pointsOfRoot(root.certificate, url)
  const ofRoot = {
    authority: rootPoints.name,
    file: 'all.crl',
    scope: 'root',
    url: rootPoints.urlOf('all.crl'),
  } as const
  const authorities = new Map<string, Published>([
    [
      points.name,
      {
        certificate: issuing.certificate.der,
        find: (file) => lists.find(file),
        get isLoaded() {
          return lists.isLoaded
        },
      },
    ],
    [
      rootPoints.name,
      {
        certificate: root.certificate.der,
        find: (file) => (file === ofRoot.file ? rootList : undefined),
        isLoaded: true,
      },
    ],
  ])
  const { address } = opened.use(
    await createStatus({ settings, authorities, ocsp, answered, readers: new ListReaders(), clock, log }),
  )
  const resources = opened.move()
  return {
    address,
    points,
    lists,
    served: () => [...lists.served, ...(rootList === undefined ? [] : [{ ...rootList, ...ofRoot, entries: 0 }])],
    keepUp: async () => {
      current = readSigner()
      await keepRoot()
    },
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  }
}
