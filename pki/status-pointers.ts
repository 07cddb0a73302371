import { contextConstructed, contextPrimitive, DerError, element, oid, readDer, sequence } from './der.ts'
import { writeExtension } from './extensions.ts'
import { oids } from './oids.ts'
import { maxCertificateBytes, type TbsCertificate } from './tbs-certificate.ts'

/** Where a relying party learns whether a certificate still holds: URLs that stand in it. */
export type StatusPointers = { crl: string; ocsp?: string; caIssuers: string }

// GeneralName, uniformResourceIdentifier (RFC 5280 4.2.1.6)
const uri = (url: string): Buffer => element(contextPrimitive(6), Buffer.from(url, 'latin1'))

/** DistributionPointName, fullName: it is a CHOICE, so its own tag stands inside the other one. */
export const distributionPointName = (url: string): Buffer =>
  element(contextConstructed(0), element(contextConstructed(0), uri(url)))

/** CRLDistributionPoints (RFC 5280 4.2.1.13), also the syntax of freshestCRL (5.2.6). */
export const distributionPoints = (url: string): Buffer => sequence(sequence(distributionPointName(url)))

/** The extensions that carry the pointers, not critical (RFC 5280 4.2.1.13, 4.2.2.1). */
export function pointerExtensions({ crl, ocsp, caIssuers }: StatusPointers): Buffer[] {
  const access = (method: string, url: string): Buffer => sequence(oid(method), uri(url))
  return [
    writeExtension(oids.cRLDistributionPoints, distributionPoints(crl)),
    writeExtension(
      oids.authorityInfoAccess,
      sequence(...(ocsp === undefined ? [] : [access(oids.accessOcsp, ocsp)]), access(oids.accessCaIssuers, caIssuers)),
    ),
  ]
}

/**
 * What a certificate says about its status, in the one form that we write.
 *
 * @throws DerError for any other
 */
export function readPointers(tbs: TbsCertificate): StatusPointers | undefined {
  const crlPoints = tbs.extensions.get(oids.cRLDistributionPoints)
  const access = tbs.extensions.get(oids.authorityInfoAccess)
  if (crlPoints === undefined || access === undefined) return undefined
  const points = readDer(crlPoints.value, maxCertificateBytes).enter()
  const point = points.enter()
  points.end()
  const crl = point.enter(contextConstructed(0)).enter(contextConstructed(0)).next(contextPrimitive(6))
  const urls = new Map<string, string>()
  const list = readDer(access.value, maxCertificateBytes).enter()
  while (!list.done) {
    const description = list.enter()
    urls.set(description.oid(), description.next(contextPrimitive(6)).content.toString('latin1'))
  }
  const ocsp = urls.get(oids.accessOcsp)
  const caIssuers = urls.get(oids.accessCaIssuers)
  if (caIssuers === undefined) throw new DerError('authorityInfoAccess without caIssuers')
  return { crl: crl.content.toString('latin1'), ...(ocsp === undefined ? {} : { ocsp }), caIssuers }
}
