/** Certificates of every kind, good and bad, made by a library that production does not issue with. */
import 'reflect-metadata'
import { createHash, createPrivateKey, createPublicKey, type KeyObject, randomBytes, webcrypto } from 'node:crypto'
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsageExtension,
  type Extension,
  type JsonName,
  KeyUsageFlags,
  KeyUsagesExtension,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  type X509Certificate,
  X509CertificateGenerator,
  X509CrlGenerator,
  X509CrlReason,
} from '@peculiar/x509'

const ecdsa = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }
const clientAuth = '1.3.6.1.5.5.7.3.2'
const serverAuth = '1.3.6.1.5.5.7.3.1'
const day = 86_400_000

export type TestCertificate = {
  /** PKCS#8 PEM */
  key: string
  /** PEM of this one alone */
  pem: string
  /** PEM of this one and of the CAs above it, without the root */
  chain: string
  serial: string
  fingerprint: string
  notAfter: Date
}
export type TestAuthority = TestCertificate & {
  keys: webcrypto.CryptoKeyPair
  certificate: X509Certificate
  above: string
}
type Wanted = {
  name: JsonName
  notBefore?: Date
  notAfter?: Date
  usage?: string[]
  uris?: string[]
  dns?: string[]
  ips?: string[]
  ca?: { pathLength: number }
  keyUsage?: number
  /** PKCS#8 PEM of a key that there is already. */
  key?: string
}

async function keyPairOf(pem: string): Promise<webcrypto.CryptoKeyPair> {
  const der = (key: KeyObject, type: 'pkcs8' | 'spki') =>
    key.export({ format: 'der', type } as never) as unknown as Buffer
  const { subtle } = webcrypto
  const secret = createPrivateKey(pem)
  return {
    privateKey: await subtle.importKey('pkcs8', der(secret, 'pkcs8'), ecdsa, true, ['sign']),
    publicKey: await subtle.importKey('spki', der(createPublicKey(secret), 'spki'), ecdsa, true, ['verify']),
  }
}

async function make(wanted: Wanted, issuer: TestAuthority | undefined): Promise<TestAuthority> {
  const keys =
    wanted.key === undefined
      ? await webcrypto.subtle.generateKey(ecdsa, true, ['sign', 'verify'])
      : await keyPairOf(wanted.key)
  const names = [
    ...(wanted.uris ?? []).map((value) => ({ type: 'url' as const, value })),
    ...(wanted.dns ?? []).map((value) => ({ type: 'dns' as const, value })),
    ...(wanted.ips ?? []).map((value) => ({ type: 'ip' as const, value })),
  ]
  const extensions: Extension[] = [
    new BasicConstraintsExtension(wanted.ca !== undefined, wanted.ca?.pathLength, true),
    new KeyUsagesExtension(
      wanted.keyUsage ??
        (wanted.ca ? KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign : KeyUsageFlags.digitalSignature),
      true,
    ),
    await SubjectKeyIdentifierExtension.create(keys.publicKey),
  ]
  if (issuer) extensions.push(await AuthorityKeyIdentifierExtension.create(issuer.keys.publicKey))
  if (wanted.usage?.length) extensions.push(new ExtendedKeyUsageExtension(wanted.usage))
  if (names.length > 0) extensions.push(new SubjectAlternativeNameExtension(names))
  const serial = `01${randomBytes(15).toString('hex')}`
  const notBefore = wanted.notBefore ?? new Date(Date.now() - day)
  const notAfter = wanted.notAfter ?? new Date(Date.now() + 30 * day)
  const certificate = await X509CertificateGenerator.create({
    serialNumber: serial,
    subject: wanted.name,
    issuer: issuer ? issuer.certificate.subjectName.toJSON() : wanted.name,
    notBefore,
    notAfter,
    publicKey: keys.publicKey,
    signingKey: issuer ? issuer.keys.privateKey : keys.privateKey,
    signingAlgorithm: ecdsa,
    extensions,
  })
  const pem = `${certificate.toString('pem')}\n`
  const key = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey)).toString('base64')
  return {
    key: `-----BEGIN PRIVATE KEY-----\n${key.match(/.{1,64}/g)!.join('\n')}\n-----END PRIVATE KEY-----\n`,
    pem,
    chain: issuer ? pem + issuer.above : pem,
    // What a leaf sends behind itself: this CA, and those above it but the root.
    above: issuer ? pem + issuer.above : '',
    serial,
    fingerprint: createHash('sha256').update(Buffer.from(certificate.rawData)).digest('hex'),
    notAfter: certificate.notAfter,
    keys,
    certificate,
  }
}

/** A root with an issuing CA below it, and what they can issue. */
export class TestPki {
  readonly root: TestAuthority
  readonly issuing: TestAuthority

  private constructor(root: TestAuthority, issuing: TestAuthority) {
    this.root = root
    this.issuing = issuing
  }

  /** @param above a root that there is already */
  static async create(name = 'Test', above?: TestAuthority): Promise<TestPki> {
    const years = { notBefore: new Date(Date.now() - 400 * day), notAfter: new Date(Date.now() + 3650 * day) }
    const root = above ?? (await make({ name: [{ CN: [`${name} Root`] }], ca: { pathLength: 1 }, ...years }, undefined))
    const issuing = await make({ name: [{ CN: [`${name} Issuing CA`] }], ca: { pathLength: 0 }, ...years }, root)
    return new TestPki(root, issuing)
  }

  get anchors(): string[] {
    return [this.root.pem, this.issuing.pem]
  }

  device(
    id: string,
    more: { notBefore?: Date; notAfter?: Date; usage?: string[]; organizationalUnits?: string[] } = {},
  ): Promise<TestCertificate> {
    const { organizationalUnits = [], ...dates } = more
    const name: JsonName = [...organizationalUnits.map((unit) => ({ OU: [unit] })), { CN: [id] }]
    return make({ name, usage: [clientAuth], uris: [`urn:fleetgate:device:${id}`], ...dates }, this.issuing)
  }

  /** Of the root itself. */
  deviceOfRoot(id: string): Promise<TestCertificate> {
    return make({ name: [{ CN: [id] }], usage: [clientAuth] }, this.root)
  }

  /** What a factory gives a device (IEEE 802.1AR). */
  factory(name: JsonName, more: Omit<Wanted, 'name' | 'uris' | 'dns' | 'ips'> = {}): Promise<TestCertificate> {
    return make({ name, ...more }, this.issuing)
  }

  /** @param key PKCS#8 PEM of one that there is already */
  service(name: string, key?: string): Promise<TestCertificate> {
    return make(
      {
        ...(key === undefined ? {} : { key }),
        name: [{ CN: [name] }],
        usage: [serverAuth, clientAuth],
        dns: ['localhost', `${name}.fleetgate.internal`],
        ips: ['127.0.0.1'],
        notAfter: new Date(Date.now() + 365 * day),
      },
      this.issuing,
    )
  }

  /** @param key PKCS#8 PEM of one that there is already */
  static selfSigned(id: string, key?: string): Promise<TestCertificate> {
    const name = { name: [{ CN: [id] }], usage: [clientAuth], uris: [`urn:fleetgate:device:${id}`] }
    return make({ ...name, ...(key === undefined ? {} : { key }) }, undefined)
  }
}

/** A revocation list in PEM: serials revoked for keyCompromise, and others that are on hold. */
export async function revocationList(
  { certificate, keys }: TestAuthority,
  more: { serials?: string[]; held?: string[]; nextUpdate?: Date; extensions?: Extension[] } = {},
): Promise<string> {
  const { serials = [], held = [], nextUpdate = new Date(Date.now() + day), extensions = [] } = more
  const entry = (reason: X509CrlReason) => (serialNumber: string) => ({
    serialNumber,
    reason,
    revocationDate: new Date(),
  })
  const list = await X509CrlGenerator.create({
    issuer: certificate.subjectName.toJSON(),
    thisUpdate: new Date(Date.now() - 2 * day),
    nextUpdate,
    entries: [...serials.map(entry(X509CrlReason.keyCompromise)), ...held.map(entry(X509CrlReason.certificateHold))],
    extensions,
    signingAlgorithm: ecdsa,
    signingKey: keys.privateKey,
  })
  const lines = Buffer.from(list.rawData)
    .toString('base64')
    .match(/.{1,64}/g)!
  return `-----BEGIN X509 CRL-----\n${lines.join('\n')}\n-----END X509 CRL-----\n`
}
