/** What a certificate will say, whatever its request asked for. */
export type CertificateProfile = {
  name: string
  /** lifetime in milliseconds */
  validityMs: number
  /** O of the subject; the subject has none when this is absent */
  organization?: string
  extendedKeyUsage: ('clientAuth' | 'serverAuth')[]
  /** makes a CA certificate; `pathLength` is the number of CAs that may follow below (RFC 5280 4.2.1.9) */
  ca?: { pathLength: number }
}

const day = 86_400_000

export const rootProfile: CertificateProfile = {
  name: 'root',
  validityMs: 3_652 * day,
  extendedKeyUsage: [],
  ca: { pathLength: 1 },
}

export const issuingProfile: CertificateProfile = {
  name: 'issuing',
  validityMs: 1_826 * day,
  extendedKeyUsage: [],
  ca: { pathLength: 0 },
}

export const serverProfile: CertificateProfile = {
  name: 'server',
  validityMs: 365 * day,
  extendedKeyUsage: ['serverAuth'],
}

/** A service that both listens and calls its neighbour: the broker towards devices and towards enroll. */
export const serverAndClientProfile: CertificateProfile = {
  name: 'server-and-client',
  validityMs: 365 * day,
  extendedKeyUsage: ['serverAuth', 'clientAuth'],
}

export const operatorProfile: CertificateProfile = {
  name: 'operator',
  validityMs: 365 * day,
  extendedKeyUsage: ['clientAuth'],
}
