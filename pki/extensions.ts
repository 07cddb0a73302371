import { boolean, DerError, type DerReader, octetString, oid, sequence, tags } from './der.ts'

/** `value` is the DER inside the OCTET STRING. */
export type Extension = { critical: boolean; value: Buffer }

const maxExtensions = 64

/**
 * Extensions by OID (RFC 5280 4.1.2.9), from a reader over the list's elements.
 *
 * @throws DerError also when an extension stands twice (RFC 5280 4.2)
 */
export function readExtensions(list: DerReader): Map<string, Extension> {
  const extensions = new Map<string, Extension>()
  while (!list.done) {
    if (extensions.size === maxExtensions) throw new DerError(`more than ${maxExtensions} extensions`)
    const reader = list.enter()
    const type = reader.oid()
    // A written-out FALSE is not DER (X.690 11.5), but certificates in use have it and it says nothing else.
    const critical = reader.nextTag === tags.boolean && reader.boolean()
    const value = reader.octetString()
    reader.end()
    if (extensions.has(type)) throw new DerError(`extension ${type} stands twice`)
    extensions.set(type, { critical, value })
  }
  return extensions
}

export function writeExtension(type: string, value: Uint8Array, critical = false): Buffer {
  return sequence(oid(type), ...(critical ? [boolean(true)] : []), octetString(value))
}
