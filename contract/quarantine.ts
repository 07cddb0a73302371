/** What a client in quarantine can see and do: read why it is there, and ask whether that has changed. */
import type { ProblemCode } from './problems.ts'
import type { VerificationState } from './verification.ts'

/**
 * The name of a peer in quarantine: `~` and its certificate's fingerprint, or `~none`. No device id and no client id of a device
 * begins with `~`.
 */
export const quarantineName = (fingerprint: string | undefined): string => `~${fingerprint ?? 'none'}`

export const quarantineTopics = (name: string) => ({
  /** To subscribe to: a QuarantineStatus comes at once. */
  status: `$fleetgate/quarantine/${name}/status`,
  /** To publish anything to: the status comes again as it stands then. */
  ask: `$fleetgate/quarantine/${name}/ask`,
})

/** For firmware that does not know the fingerprint of its certificate; nothing but its own status comes by it. */
export const anyStatus = '$fleetgate/quarantine/+/status'

/** The payload of a status message, as JSON. */
export type QuarantineStatus = {
  /** `valid` once the client only has to connect again. */
  state: VerificationState
  cause?: ProblemCode
  detail: string
  /** What the client, or who runs it, can do. */
  advice: string
  /** Of the certificate that was presented. */
  fingerprint?: string
  /** Where to ask. */
  ask: string
}
