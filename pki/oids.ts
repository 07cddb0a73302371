/** Object identifiers that more than one file here reads or writes. */
export const oids = {
  // attribute types (X.520, RFC 4519)
  commonName: '2.5.4.3',
  serialNumberAttribute: '2.5.4.5',
  organization: '2.5.4.10',
  organizationalUnit: '2.5.4.11',

  // certificate extensions (RFC 5280 4.2)
  subjectKeyIdentifier: '2.5.29.14',
  keyUsage: '2.5.29.15',
  subjectAltName: '2.5.29.17',
  basicConstraints: '2.5.29.19',
  authorityKeyIdentifier: '2.5.29.35',
  extendedKeyUsage: '2.5.29.37',
  serverAuth: '1.3.6.1.5.5.7.3.1',
  clientAuth: '1.3.6.1.5.5.7.3.2',
  cmcRA: '1.3.6.1.5.5.7.3.28', // RFC 6402 2.10
  OCSPSigning: '1.3.6.1.5.5.7.3.9', // RFC 6960 4.2.2.2
  documentSigning: '1.3.6.1.5.5.7.3.36', // RFC 9336 3.1
  cRLDistributionPoints: '2.5.29.31',
  authorityInfoAccess: '1.3.6.1.5.5.7.1.1',
  accessOcsp: '1.3.6.1.5.5.7.48.1',
  accessCaIssuers: '1.3.6.1.5.5.7.48.2',

  // revocation lists (RFC 5280 5.2, 5.3)
  cRLNumber: '2.5.29.20',
  reasonCode: '2.5.29.21',
  deltaCRLIndicator: '2.5.29.27',
  issuingDistributionPoint: '2.5.29.28',
  freshestCRL: '2.5.29.46',

  // OCSP (RFC 6960 4)
  ocspBasic: '1.3.6.1.5.5.7.48.1.1',
  ocspNonce: '1.3.6.1.5.5.7.48.1.2',
  ocspNoCheck: '1.3.6.1.5.5.7.48.1.5',
  sha1: '1.3.14.3.2.26',

  // keys and signatures (RFC 3279, 5480, 5758, 4055, 8410)
  ecPublicKey: '1.2.840.10045.2.1',
  p256: '1.2.840.10045.3.1.7',
  p384: '1.3.132.0.34',
  ed25519: '1.3.101.112',
  rsaEncryption: '1.2.840.113549.1.1.1',
  ecdsaWithSha256: '1.2.840.10045.4.3.2',
  ecdsaWithSha384: '1.2.840.10045.4.3.3',
  ecdsaWithSha512: '1.2.840.10045.4.3.4',
  sha256WithRsa: '1.2.840.113549.1.1.11',
  sha384WithRsa: '1.2.840.113549.1.1.12',
  sha512WithRsa: '1.2.840.113549.1.1.13',

  // PKCS#9 attributes of a request (RFC 2985 5.4)
  challengePassword: '1.2.840.113549.1.9.7',
  extensionRequest: '1.2.840.113549.1.9.14',
  certificationRequestInfoTemplate: '1.2.840.113549.1.9.16.2.61', // RFC 9908 3.4
  smimeCapabilities: '1.2.840.113549.1.9.15', // RFC 8551 2.5.2
  decryptKeyId: '1.2.840.113549.1.9.16.2.37', // RFC 7030 4.4.1.1
  asymmetricDecryptKeyId: '1.2.840.113549.1.9.16.2.54', // RFC 7030 4.4.1.2

  // CMS (RFC 5652)
  data: '1.2.840.113549.1.7.1',
  signedData: '1.2.840.113549.1.7.2',
  envelopedData: '1.2.840.113549.1.7.3',
  pkiData: '1.3.6.1.5.5.7.12.2', // RFC 5272 3.2.1
  pkiResponse: '1.3.6.1.5.5.7.12.3', // RFC 5272 4.2
  contentType: '1.2.840.113549.1.9.3',
  messageDigest: '1.2.840.113549.1.9.4',
  signingTime: '1.2.840.113549.1.9.5',
  asymmetricKeyPackage: '2.16.840.1.101.2.1.2.78.5', // RFC 5958 1
  sha256: '2.16.840.1.101.3.4.2.1',
  sha384: '2.16.840.1.101.3.4.2.2',
  sha512: '2.16.840.1.101.3.4.2.3',

  // what keys are encrypted with (RFC 3565, 4055, 5753)
  aes128Cbc: '2.16.840.1.101.3.4.1.2',
  aes192Cbc: '2.16.840.1.101.3.4.1.22',
  aes256Cbc: '2.16.840.1.101.3.4.1.42',
  aes256Wrap: '2.16.840.1.101.3.4.1.45',
  rsaesOaep: '1.2.840.113549.1.1.7',
  mgf1: '1.2.840.113549.1.1.8',
  ecdhSha1Kdf: '1.3.133.16.840.63.0.2',
  ecdhSha256Kdf: '1.3.132.1.11.1',
  ecdhSha384Kdf: '1.3.132.1.11.2',
  ecdhSha512Kdf: '1.3.132.1.11.3',
} as const
