/** Branded identifiers: parse once at the border, then trust the type. */

declare const brand: unique symbol
type Brand<Name extends string> = string & { readonly [brand]: Name }

/** A managed device's name; also the CN of its certificate and the stem of its MQTT client ids. */
export type DeviceId = Brand<'DeviceId'>
/** A named set of devices. */
export type GroupName = Brand<'GroupName'>
/** A certificate profile's name. */
export type ProfileName = Brand<'ProfileName'>
/** A certificate serial number: lower-case hex, two digits an octet, no leading zero octet. */
export type SerialNumber = Brand<'SerialNumber'>
/** SHA-256 of a certificate's DER: 64 lower-case hex digits. */
export type Fingerprint = Brand<'Fingerprint'>

// No `+ # / $` or control character can reach a topic, no ':' can make one device's client id look like another device's
// id with a suffix, and the leading letter or digit keeps `.`, `..` and `__proto__` out of paths and objects.
const name = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/
const profileName = /^[a-z][a-z0-9-]{0,31}$/
const serial = /^(?!00)(?:[0-9a-f]{2}){1,20}$/
const fingerprint = /^[0-9a-f]{64}$/

export const nameRule = 'letters, digits and . _ -, 1 to 64 of them, the first a letter or digit'

export const isDeviceId = (text: string): text is DeviceId => name.test(text)
export const isGroupName = (text: string): text is GroupName => name.test(text)
export const isProfileName = (text: string): text is ProfileName => profileName.test(text)
export const isSerialNumber = (text: string): text is SerialNumber => serial.test(text)
export const isFingerprint = (text: string): text is Fingerprint => fingerprint.test(text)

/** RFC 5280 5.3.1 reasons that end a certificate for good (`certificateHold` and `removeFromCRL` do not). */
export const revocationReasons = [
  'unspecified',
  'keyCompromise',
  'cACompromise',
  'affiliationChanged',
  'superseded',
  'cessationOfOperation',
  'privilegeWithdrawn',
  'aACompromise',
] as const
export type RevocationReason = (typeof revocationReasons)[number]
/** Why a certificate does not count; a hold can be taken back. */
export const statusReasons = [...revocationReasons, 'certificateHold'] as const
export type StatusReason = (typeof statusReasons)[number]

/**
 * A client id is the device id itself, or the device id, `:` and a suffix of the device's choosing, 64 characters at
 * most and none of them a control character.
 *
 * @returns whether `clientId` belongs to `deviceId`
 */
export const clientIdBelongsTo = (clientId: string, deviceId: DeviceId): boolean =>
  clientId === deviceId ||
  (clientId.startsWith(`${deviceId}:`) && clientId.length <= deviceId.length + 65 && !/\p{C}/u.test(clientId))
