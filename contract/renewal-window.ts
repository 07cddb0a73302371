import { createHash } from 'node:crypto'

/** Of an answer with a certificate: the window in which it is to be renewed, as ISO 8601 has intervals. */
export const renewalWindowHeader = 'Fleetgate-Renewal-Window'

/** How much of a certificate's life is over when it is to be renewed. */
const due = 2 / 3
const spread = 1 / 20

export type Validity = { notBefore: Date; notAfter: Date }

/**
 * When a certificate is to be renewed: from that part of its life on, or up to a twentieth of it later, each one at its own
 * time, so that a fleet that was enrolled at once does not come back at once. The same for whoever has the certificate.
 */
export function renewalWindow(
  der: Uint8Array,
  { notBefore, notAfter }: Validity,
  part = due,
): { from: Date; to: Date } {
  const life = notAfter.getTime() - notBefore.getTime()
  const jitter = (createHash('sha256').update(der).digest().readUInt32BE() / 2 ** 32) * spread
  const at = (part: number): Date => new Date(notBefore.getTime() + life * part)
  return { from: at(part + jitter), to: at(part + jitter + spread) }
}
