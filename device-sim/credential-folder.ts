/**
 * What a device keeps in a folder of its own:
 *
 *   ca.pem               the root that it trusts
 *   gateway.json         where it enrolled
 *   current/             a link to the folder of its certificate: key.pem, cert.pem, and chain.pem to show to a broker
 *   pending/             key and request that wait for their answer
 *
 * A program that reads `current/` sees key and certificate of one kind: the link is exchanged in one step.
 */
import { createHash, createPublicKey, X509Certificate } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
} from 'node:fs'
import { join } from 'node:path'
import { parsePem } from '../pki/certificate.ts'
import { FleetError } from '../runtime/errors.ts'
import { readPrivateFile, syncFolder, writeFileAtomic } from '../runtime/files.ts'
import type { Trust } from './est-client.ts'
import { certificateOf, type Identity } from './identity.ts'

export type Gateway = { url: string; rootFingerprint: string; id: string }
export type Pending = { privateKeyPem: string; csrDer: Buffer }

export class CredentialFolder {
  readonly path: string

  constructor(path: string) {
    this.path = path
  }

  get isEnrolled(): boolean {
    return existsSync(join(this.path, 'current'))
  }

  /** The request that was made before, or the one that `make` makes: it is on disk before anybody hears of its key. */
  async pending(make: () => Promise<Pending>): Promise<Pending> {
    const folder = join(this.path, 'pending')
    if (!existsSync(folder)) {
      const { privateKeyPem, csrDer } = await make()
      this.#folder(folder, { 'key.pem': [privateKeyPem, 0o600], 'request.der': [csrDer, 0o600] })
    }
    return {
      privateKeyPem: readPrivateFile(join(folder, 'key.pem')),
      csrDer: readFileSync(join(folder, 'request.der')),
    }
  }

  /** @throws FleetError `data_damaged` */
  read(): { gateway: Gateway; identity: Identity } {
    const at = (name: string): string => join(this.path, 'current', name)
    if (!this.isEnrolled) throw new FleetError('data_damaged', `${this.path} holds no certificate; enroll first`)
    try {
      return {
        gateway: JSON.parse(readFileSync(join(this.path, 'gateway.json'), 'utf8')) as Gateway,
        identity: {
          privateKeyPem: readPrivateFile(at('key.pem')),
          certificatePem: readFileSync(at('cert.pem'), 'utf8'),
          chainPem: readFileSync(at('chain.pem'), 'utf8'),
        },
      }
    } catch (cause) {
      if (cause instanceof FleetError) throw cause
      throw new FleetError('data_damaged', `${this.path} cannot be read: ${(cause as Error).message}`, { cause })
    }
  }

  /** What is there, to be shown. */
  describe(): { gateway: Gateway; serial: string; notAfter: Date } {
    const { gateway, identity } = this.read()
    const { serial, notAfter } = certificateOf(identity.certificatePem)
    return { gateway, serial, notAfter }
  }

  /** Keeps a first certificate: nothing of it shows before all of it is there. */
  keepFirst(gateway: Gateway, trust: Trust, identity: Identity): void {
    writeFileAtomic(join(this.path, 'ca.pem'), trust.rootPem)
    writeFileAtomic(join(this.path, 'gateway.json'), `${JSON.stringify(gateway, null, 2)}\n`)
    this.keep(identity)
    rmSync(join(this.path, 'pending'), { recursive: true, force: true })
  }

  /** Puts a certificate in the place of the one before, whose files stay until the next for those who have them open. */
  keep({ privateKeyPem, certificatePem, chainPem }: Identity): void {
    const name = `cert-${certificateOf(certificatePem).serial}`
    const before = this.isEnrolled ? readlinkSync(join(this.path, 'current')) : undefined
    this.#folder(join(this.path, name), {
      'key.pem': [privateKeyPem, 0o600],
      'cert.pem': [certificatePem, 0o644],
      'chain.pem': [chainPem, 0o644],
    })
    const draft = join(this.path, 'current.new')
    rmSync(draft, { force: true })
    symlinkSync(name, draft)
    renameSync(draft, join(this.path, 'current'))
    syncFolder(this.path)
    for (const old of readdirSync(this.path)) {
      if (!old.startsWith('cert-') || old === name || old === before) continue
      rmSync(join(this.path, old), { recursive: true })
    }
  }

  /** A folder with its files, or none. */
  #folder(path: string, files: Record<string, [content: string | Buffer, mode: number]>): void {
    const draft = `${path}.new`
    rmSync(draft, { recursive: true, force: true })
    mkdirSync(draft, { recursive: true, mode: 0o755 })
    for (const [name, [content, mode]] of Object.entries(files)) writeFileAtomic(join(draft, name), content, mode)
    rmSync(path, { recursive: true, force: true })
    renameSync(draft, path)
    syncFolder(this.path)
  }
}

/**
 * Sees that a certificate is the one that was asked for, before anything is replaced by it.
 *
 * @throws FleetError `gateway_untrusted`
 */
export function requireOwn({ privateKeyPem, chainPem }: Identity, trust: Trust, id: string): void {
  const fail = (what: string): never => {
    throw new FleetError('gateway_untrusted', `the gateway answered with a certificate ${what}; nothing was kept`)
  }
  const [leaf, ...above] = parsePem(chainPem + trust.rootPem, 'CERTIFICATE').map((der) => new X509Certificate(der))
  if (!leaf!.publicKey.equals(createPublicKey(privateKeyPem))) fail('for another key')
  const names = leaf!.subject.split('\n').filter((line) => line.startsWith('CN='))
  if (names.join() !== `CN=${id}`) fail(`for ${names.join(', ') || 'nobody'}, not for ${id}`)
  const isHeld = above.every((issuer, at) => {
    const below = at === 0 ? leaf! : above[at - 1]!
    return below.checkIssued(issuer) && below.verify(issuer.publicKey)
  })
  if (!isHeld) fail('that does not lead to the pinned root')
}

/**
 * When a certificate is to be renewed: at that part of its life, and up to a twentieth of it later, each one at its own
 * time, so that a fleet that was enrolled at once does not come back at once.
 */
export function renewalDue(certificatePem: string, part: number): Date {
  const { notBefore, notAfter, der } = certificateOf(certificatePem)
  const jitter = createHash('sha256').update(der).digest().readUInt32BE() / 2 ** 32 / 20
  return new Date(notBefore.getTime() + (notAfter.getTime() - notBefore.getTime()) * (part + jitter))
}
