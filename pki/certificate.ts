import { hash } from 'node:crypto'
import { type Fingerprint, isFingerprint, isSerialNumber, type SerialNumber } from '../contract/ids.ts'
import { FleetError } from '../runtime/errors.ts'
import {
  bitString,
  boolean,
  contextConstructed,
  contextPrimitive,
  DerError,
  DerReader,
  element,
  integer,
  octetString,
  oid,
  readDer,
  sequence,
  tags,
  time,
} from './der.ts'
import { writeExtension } from './extensions.ts'
import type { Signer } from './keystore.ts'
import { lintCertificate, lintFailed } from './lint.ts'
import { type AlternativeNames, buildAlternativeNames, type DistinguishedName, parseAlternativeNames } from './names.ts'
import { oids } from './oids.ts'
import { type CertificateProfile, isOcspResponder, keyUsagesOf } from './profile.ts'
import { keyIdentifierOf, spkiHashOf } from './public-key.ts'
import { pointerExtensions, type StatusPointers } from './status-pointers.ts'
import {
  type KeyUsage,
  keyUsageBits,
  maxCertificateBytes,
  readAuthorityKeyId,
  readBasicConstraints,
  readExtendedKeyUsage,
  readKeyUsage,
  readSubjectKeyId,
  readTbsCertificate,
  type TbsCertificate,
} from './tbs-certificate.ts'

/** What a certificate says. That it is true needs its signature, which is not checked here. */
export type CertificateFacts = {
  der: Buffer
  serial: SerialNumber
  fingerprint: Fingerprint
  subject: DistinguishedName
  issuer: DistinguishedName
  notBefore: Date
  notAfter: Date
  publicKeySpki: Buffer
  /** SHA-256 of `publicKeySpki`, lower-case hex */
  spkiHash: string
  subjectAltName: AlternativeNames
  /** the extension's GeneralNames, as they stand */
  subjectAltNameDer: Buffer | undefined
  /** empty when the extension is absent, which means any use */
  keyUsage: KeyUsage[]
  /** `clientAuth`, `serverAuth`, `cmcRA`, `OCSPSigning`, `documentSigning` or a dotted OID; empty when the extension is absent, which means any use */
  extendedKeyUsage: string[]
  isCa: boolean
  /** hex */
  authorityKeyId: string | undefined
  /** hex */
  subjectKeyId: string | undefined
}

/**
 * Reads a certificate, which may come from a hostile peer.
 *
 * @throws FleetError `request_malformed` when it is not DER as RFC 5280 asks
 */
export function parseCertificate(der: Uint8Array): CertificateFacts {
  // A slice of Node's pool would keep all of that, for as long as a connection lasts.
  const copy = Buffer.allocUnsafeSlow(der.length)
  copy.set(der)
  try {
    return readFacts(copy)
  } catch (cause) {
    if (!(cause instanceof DerError)) throw cause
    throw new FleetError('request_malformed', `The certificate is not DER as RFC 5280 asks: ${cause.message}`, {
      cause,
    })
  }
}

/** Of a certificate that was made here: nothing else of it is looked at, nor checked. */
export function validityOf(der: Buffer): Pick<CertificateFacts, 'notBefore' | 'notAfter'> {
  const tbs = new DerReader(der, 0, der.length).enter().enter()
  for (const _ of ['version', 'serialNumber', 'signature', 'issuer']) tbs.next()
  const validity = tbs.enter()
  return { notBefore: validity.time(), notAfter: validity.time() }
}

function readFacts(der: Buffer): CertificateFacts {
  const tbs = readOuter(der)
  const alternativeNames = tbs.extensions.get(oids.subjectAltName)?.value
  return {
    der,
    serial: serialOf(tbs),
    fingerprint: fingerprintOf(der),
    subject: tbs.subject,
    issuer: tbs.issuer,
    notBefore: tbs.notBefore.date,
    notAfter: tbs.notAfter.date,
    publicKeySpki: tbs.publicKeySpki,
    spkiHash: spkiHashOf(tbs.publicKeySpki),
    subjectAltName: alternativeNames ? parseAlternativeNames(alternativeNames) : { uris: [], dns: [], ips: [] },
    subjectAltNameDer: alternativeNames,
    keyUsage: readKeyUsage(tbs) ?? [],
    extendedKeyUsage: (readExtendedKeyUsage(tbs) ?? []).map(purposeName),
    isCa: readBasicConstraints(tbs)?.ca === true,
    authorityKeyId: readAuthorityKeyId(tbs)?.toString('hex'),
    subjectKeyId: readSubjectKeyId(tbs)?.toString('hex'),
  }
}

function readOuter(der: Buffer): TbsCertificate {
  const reader = readDer(der, maxCertificateBytes).enter()
  const tbs = readTbsCertificate(reader.next(tags.sequence).der)
  const algorithm = reader.next(tags.sequence).der
  reader.bitString()
  reader.end()
  // RFC 5280 4.1.1.2: the algorithm outside the signature is the one inside it.
  if (!algorithm.equals(tbs.signatureAlgorithm)) throw new DerError('two different signature algorithms')
  return tbs
}

function serialOf(tbs: TbsCertificate): SerialNumber {
  const content = tbs.serial
  if (content[0]! > 0x7f) throw new DerError('a negative serial number')
  const text = (content[0] === 0 ? content.subarray(1) : content).toString('hex')
  if (!isSerialNumber(text)) throw new DerError('a serial number that is zero or longer than 20 octets')
  return text
}

function fingerprintOf(der: Uint8Array): Fingerprint {
  const text = hash('sha256', der)
  if (!isFingerprint(text)) throw new DerError('no fingerprint')
  return text
}

const purposes = ['clientAuth', 'serverAuth', 'cmcRA', 'OCSPSigning', 'documentSigning'] as const
const purposeName = (dotted: string): string => purposes.find((purpose) => oids[purpose] === dotted) ?? dotted

export type PrepareInput = {
  profile: CertificateProfile
  /** `self` makes a trust anchor: the subject issues itself, with the signer's own key */
  issuer: { certificate: CertificateFacts | 'self'; signer: Signer }
  serial: SerialNumber
  /** DER of the Name */
  subject: Buffer
  subjectAltName: Partial<AlternativeNames>
  publicKeySpki: Buffer
  notBefore: Date
  notAfter: Date
  /** where its status is to be asked for */
  pointers?: StatusPointers | undefined
}
export type IssuedCertificate = {
  der: Buffer
  /** Made when it is asked for. */
  readonly pem: string
  serial: SerialNumber
  fingerprint: Fingerprint
  notBefore: Date
  notAfter: Date
}

/** A certificate that has passed lint and lacks its signature; only `prepare` makes one and `issue` takes it once. */
class Prepared {
  readonly serial: SerialNumber
  readonly notBefore: Date
  readonly notAfter: Date
  #unsigned: { tbs: Buffer; signer: Signer } | undefined

  constructor(tbs: Buffer, signer: Signer, facts: Pick<Prepared, 'serial' | 'notBefore' | 'notAfter'>) {
    this.#unsigned = { tbs, signer }
    this.serial = facts.serial
    this.notBefore = facts.notBefore
    this.notAfter = facts.notAfter
  }

  static redeem(prepared: Prepared): { tbs: Buffer; signer: Signer } {
    const unsigned = prepared.#unsigned
    prepared.#unsigned = undefined
    if (unsigned === undefined) throw new FleetError('internal', `Certificate ${prepared.serial} was issued already`)
    return unsigned
  }
}

export type { Prepared as PreparedCertificate }

const version3 = element(contextConstructed(0), integer(2))
const signatureAlgorithm = sequence(oid(oids.ecdsaWithSha256))

/**
 * Builds the bytes to sign and lints them. Both dates are cut to the issuer's own, and to whole seconds.
 *
 * @throws FleetError `lint_failed`
 */
export function prepare(input: PrepareInput): Prepared {
  const { profile, issuer, serial, subject, publicKeySpki, pointers } = input
  const certificate = issuer.certificate === 'self' ? undefined : issuer.certificate
  const notBefore = wholeSecond(
    certificate && certificate.notBefore > input.notBefore ? certificate.notBefore : input.notBefore,
  )
  const notAfter = wholeSecond(
    certificate && certificate.notAfter < input.notAfter ? certificate.notAfter : input.notAfter,
  )
  const { uris = [], dns = [], ips = [] } = input.subjectAltName
  const hasAlternativeNames = uris.length + dns.length + ips.length > 0
  try {
    const tbs = sequence(
      version3,
      integer(Buffer.from(serial, 'hex')),
      signatureAlgorithm,
      certificate ? certificate.subject.der : subject,
      sequence(time(notBefore), time(notAfter)),
      subject,
      publicKeySpki,
      element(
        contextConstructed(3),
        sequence(
          ...keyIdentifiers(publicKeySpki, certificate),
          ...usage(profile, publicKeySpki),
          ...(hasAlternativeNames
            ? [writeExtension(oids.subjectAltName, buildAlternativeNames({ uris, dns, ips }))]
            : []),
          ...(pointers === undefined ? [] : pointerExtensions(pointers)),
        ),
      ),
    )
    lintCertificate(tbs, {
      profile,
      issuer: certificate ? issuerOf(certificate) : 'self',
      signerSpki: issuer.signer.publicKeySpki,
      hasAlternativeNames,
      pointers,
    })
    return new Prepared(tbs, issuer.signer, { serial, notBefore, notAfter })
  } catch (cause) {
    if (!(cause instanceof DerError)) throw cause
    throw lintFailed(cause.message, cause)
  }
}

/** What the issuing certificate says, read once for all that it issues. */
const issuers = new WeakMap<CertificateFacts, TbsCertificate>()

const issuerOf = (certificate: CertificateFacts): TbsCertificate =>
  made(issuers, certificate, () => readOuter(certificate.der))

function made<K extends object, V>(known: WeakMap<K, V>, key: K, make: () => V): V {
  const value = known.get(key) ?? make()
  known.set(key, value)
  return value
}

const wholeSecond = (date: Date): Date => new Date(Math.floor(date.getTime() / 1000) * 1000)

function keyIdentifiers(publicKeySpki: Buffer, issuer: CertificateFacts | undefined): Buffer[] {
  const subjectKeyId = keyIdentifierOf(publicKeySpki)
  return [
    issuer
      ? made(authorityKeyIds, issuer, () => authorityKeyId(issuer.subjectKeyId))
      : authorityKeyId(subjectKeyId.toString('hex')),
    writeExtension(oids.subjectKeyIdentifier, octetString(subjectKeyId)),
  ]
}

const authorityKeyIds = new WeakMap<CertificateFacts, Buffer>()

function authorityKeyId(keyId: string | undefined): Buffer {
  if (keyId === undefined) throw lintFailed('its issuer has no subjectKeyIdentifier')
  const identifier = element(contextPrimitive(0), Buffer.from(keyId, 'hex'))
  return writeExtension(oids.authorityKeyIdentifier, sequence(identifier))
}

const usages = new WeakMap<CertificateProfile, Buffer[]>()

/** The same for all certificates of a profile, but for one that receives keys: there the key decides. */
const usage = (profile: CertificateProfile, publicKeySpki: Buffer): Buffer[] =>
  profile.receivesKeys
    ? usageExtensions(profile, publicKeySpki)
    : made(usages, profile, () => usageExtensions(profile, publicKeySpki))

function usageExtensions(profile: CertificateProfile, publicKeySpki: Buffer): Buffer[] {
  const { ca, extendedKeyUsage } = profile
  const constraints = ca ? sequence(boolean(true), integer(ca.pathLength)) : sequence()
  return [
    writeExtension(oids.basicConstraints, constraints, true),
    writeExtension(oids.keyUsage, keyUsageBits(keyUsagesOf(profile, publicKeySpki)), true),
    ...(extendedKeyUsage.length === 0
      ? []
      : [writeExtension(oids.extendedKeyUsage, sequence(...extendedKeyUsage.map((purpose) => oid(oids[purpose]))))]),
    // RFC 6960 4.2.2.2.1: nobody asks for the status of who answers; it lives for a short time instead.
    ...(isOcspResponder(profile) ? [writeExtension(oids.ocspNoCheck, element(tags.null))] : []),
  ]
}

/**
 * Signs what was prepared, once: a second call throws, also after the first has failed.
 *
 * @throws FleetError `key_unavailable`
 */
export async function issue(prepared: Prepared): Promise<IssuedCertificate> {
  const { tbs, signer } = Prepared.redeem(prepared)
  const der = sequence(tbs, signatureAlgorithm, bitString(await signer.sign(tbs)))
  return {
    der,
    get pem() {
      return toPem(der)
    },
    serial: prepared.serial,
    fingerprint: fingerprintOf(der),
    notBefore: prepared.notBefore,
    notAfter: prepared.notAfter,
  }
}

/**
 * 16 octets, the first from 01 to 7f: positive and always of the same length (RFC 5280 4.1.2.2), 126 random bits.
 *
 * @param random gives that many octets from a cryptographic source
 */
export function newSerialNumber(random: (bytes: number) => Uint8Array): SerialNumber {
  const octets = Buffer.from(random(16))
  octets[0] = (octets[0]! % 0x7f) + 1
  const text = octets.toString('hex')
  if (octets.length !== 16 || !isSerialNumber(text))
    throw new FleetError('internal', 'The random source gave too little')
  return text
}

/** RFC 7468 text: 64 columns, a line feed at the end. */
export function toPem(der: Uint8Array, label = 'CERTIFICATE'): string {
  const lines =
    Buffer.from(der)
      .toString('base64')
      .match(/.{1,64}/g) ?? []
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`
}

/** The DER of every block with this label, in the text's order; other blocks and text between are passed over. */
export function parsePem(text: string, label: string): Buffer[] {
  const blocks = text.matchAll(/-----BEGIN ([A-Z0-9 ]+)-----([A-Za-z0-9+/=\s]*)-----END \1-----/g)
  return [...blocks].filter(([, found]) => found === label).map(([, , base64]) => Buffer.from(base64!, 'base64'))
}
