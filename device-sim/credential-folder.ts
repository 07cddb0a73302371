/**
 * What a device keeps in a folder of its own:
 *
 *   ca.pem               the root that it trusts
 *   gateway.json         where it enrolled
 *   current/             a link to the folder of its certificate: key.pem (or key.uri of a key in a token), cert.pem, and
 *                        chain.pem to show to a broker
 *   pending/             the next key, and of a first one its request, until there is an answer
 *
 * A program that reads `current/` sees key and certificate of one kind: the link is exchanged in one step.
 */
import { type KeyObject, X509Certificate } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, readlinkSync, renameSync, rmSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { renewalWindow } from '../contract/renewal-window.ts'
import { parsePem } from '../pki/certificate.ts'
import { FleetError, systemFault } from '../runtime/errors.ts'
import { makeFolder, readPrivateFile, syncFolder, writeFileAtomic } from '../runtime/files.ts'
import type { Trust } from './est-client.ts'
import { certificateOf, type Identity } from './identity.ts'

export type Gateway = { url: string; rootFingerprint: string; id: string }
export type Pending = { privateKeyPem: string; csrDer: Buffer }
/** The key itself, or where it is (RFC 7512): in a token that does not give it away. */
export type Held = Omit<Identity, 'privateKeyPem'> & ({ privateKeyPem: string } | { keyUri: string })

export class CredentialFolder {
  readonly path: string
  /** Those that were there at first: who renews at the same time keeps what it has just got. */
  readonly #earlier: string[]

  constructor(path: string) {
    this.path = path
    this.#earlier = existsSync(path) ? readdirSync(path).filter((name) => name.startsWith('cert-')) : []
  }

  get isEnrolled(): boolean {
    return existsSync(join(this.path, 'current'))
  }

  /** The request that was made before, or the one that `make` makes: it is on disk before anybody hears of its key. */
  async pending(make: () => Promise<Pending>): Promise<Pending> {
    // What an attempt with a key in a token has left is not of this one.
    if (!['key.pem', 'request.der'].every((name) => existsSync(join(this.#pending, name)))) {
      const { privateKeyPem, csrDer } = await make()
      this.#folder(this.#pending, { 'key.pem': [privateKeyPem, 0o600], 'request.der': [csrDer, 0o600] })
    }
    return {
      privateKeyPem: readPrivateFile(join(this.#pending, 'key.pem')),
      csrDer: readFileSync(join(this.#pending, 'request.der')),
    }
  }

  /** The request that was made before for this key in a token, or the one that `make` makes. */
  async pendingRequest(keyUri: string, make: () => Promise<Buffer>): Promise<Buffer> {
    const at = (name: string): string => join(this.#pending, name)
    if (!existsSync(at('key.uri')) || readFileSync(at('key.uri'), 'utf8') !== keyUri) {
      this.#folder(this.#pending, { 'key.uri': [keyUri, 0o600], 'request.der': [await make(), 0o600] })
    }
    return readFileSync(at('request.der'))
  }

  /** The key for the next certificate: one whose answer never came, or the one that `make` makes. */
  pendingKey(make: () => string): string {
    const at = (folder: string): string => join(this.path, folder, 'key.pem')
    const read = (folder: string): string | undefined =>
      existsSync(at(folder)) ? readPrivateFile(at(folder)) : undefined
    const pending = read('pending')
    // A crash may have left the one that has its certificate by now: the next is to have another.
    if (pending !== undefined && pending !== read('current')) return pending
    this.#folder(this.#pending, { 'key.pem': [make(), 0o600] })
    return readPrivateFile(at('pending'))
  }

  /** The gateway will not have it: the next try begins with another key. */
  dropPending(): void {
    rmSync(this.#pending, { recursive: true, force: true })
  }

  get #pending(): string {
    return join(this.path, 'pending')
  }

  /** @throws FleetError `data_damaged` */
  read(): { gateway: Gateway; identity: Held } {
    const at = (name: string): string => join(this.path, 'current', name)
    if (!this.isEnrolled) throw new FleetError('data_damaged', `${this.path} holds no certificate; enroll first`)
    try {
      return {
        gateway: JSON.parse(readFileSync(join(this.path, 'gateway.json'), 'utf8')) as Gateway,
        identity: {
          ...(existsSync(at('key.uri'))
            ? { keyUri: readPrivateFile(at('key.uri')) }
            : { privateKeyPem: readPrivateFile(at('key.pem')) }),
          certificatePem: readFileSync(at('cert.pem'), 'utf8'),
          chainPem: readFileSync(at('chain.pem'), 'utf8'),
        },
      }
    } catch (cause) {
      if (cause instanceof FleetError) throw cause
      throw new FleetError('data_damaged', `${this.path} cannot be read: ${systemFault(cause)}`, { cause })
    }
  }

  /** What is there, to be shown. */
  describe(): { gateway: Gateway; serial: string; notAfter: Date } {
    const { gateway, identity } = this.read()
    const { serial, notAfter } = certificateOf(identity.certificatePem)
    return { gateway, serial, notAfter }
  }

  /** Keeps a first certificate: nothing of it shows before all of it is there. */
  keepFirst(gateway: Gateway, trust: Trust, identity: Held): void {
    writeFileAtomic(join(this.path, 'ca.pem'), trust.rootPem)
    writeFileAtomic(join(this.path, 'gateway.json'), `${JSON.stringify(gateway, null, 2)}\n`)
    this.keep(identity)
  }

  /** Puts a certificate in the place of the one before, whose files stay until the next for those who have them open. */
  keep({ certificatePem, chainPem, ...key }: Held): void {
    const name = `cert-${certificateOf(certificatePem).serial}`
    const before = this.isEnrolled ? readlinkSync(join(this.path, 'current')) : undefined
    this.#folder(join(this.path, name), {
      ...('keyUri' in key ? { 'key.uri': [key.keyUri, 0o600] } : { 'key.pem': [key.privateKeyPem, 0o600] }),
      'cert.pem': [certificatePem, 0o644],
      'chain.pem': [chainPem, 0o644],
    })
    const draft = join(this.path, 'current.new')
    rmSync(draft, { force: true })
    symlinkSync(name, draft)
    renameSync(draft, join(this.path, 'current'))
    syncFolder(this.path)
    this.dropPending()
    for (const old of this.#earlier) {
      if (old !== name && old !== before) rmSync(join(this.path, old), { recursive: true, force: true })
    }
  }

  /** A folder with its files, or none. */
  #folder(path: string, files: Record<string, [content: string | Buffer, mode: number]>): void {
    const draft = `${path}.new`
    try {
      rmSync(draft, { recursive: true, force: true })
      makeFolder(this.path, 0o755)
      makeFolder(draft, 0o755)
      for (const [name, [content, mode]] of Object.entries(files)) writeFileAtomic(join(draft, name), content, mode)
      rmSync(path, { recursive: true, force: true })
      renameSync(draft, path)
      syncFolder(this.path)
    } catch (cause) {
      if (cause instanceof FleetError) throw cause
      throw new FleetError('data_damaged', `${this.path} cannot be written: ${(cause as Error).message}`, { cause })
    }
  }
}

/**
 * Sees that a certificate is the one that was asked for, before anything is replaced by it.
 *
 * @throws FleetError `gateway_untrusted`
 */
export function requireOwn(
  { key, chainPem, trust }: { key: KeyObject; chainPem: string; trust: Trust },
  id: string,
): void {
  const fail = (what: string): never => {
    throw new FleetError('gateway_untrusted', `the gateway answered with a certificate ${what}; nothing was kept`)
  }
  const [leaf, ...above] = parsePem(chainPem + trust.rootPem, 'CERTIFICATE').map((der) => new X509Certificate(der))
  if (!leaf!.publicKey.equals(key)) fail('for another key')
  const names = leaf!.subject.split('\n').filter((line) => line.startsWith('CN='))
  if (names.join() !== `CN=${id}`) fail(`for ${names.join(', ') || 'nobody'}, not for ${id}`)
  const isHeld = above.every((issuer, at) => {
    const below = at === 0 ? leaf! : above[at - 1]!
    return below.checkIssued(issuer) && below.verify(issuer.publicKey)
  })
  if (!isHeld) fail('that does not lead to the pinned root')
}

/** @param part of its life, after which a certificate is to be renewed */
export function renewalDue(certificatePem: string, part: number): Date {
  const certificate = certificateOf(certificatePem)
  return renewalWindow(certificate.der, certificate, part).from
}
