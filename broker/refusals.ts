import type { ProblemCode } from '../contract/problems.ts'
import { reason } from './wire/reason.ts'

const codes: Partial<Record<ProblemCode, number>> = {
  too_many_requests: reason.connectionRateExceeded,
  password_wrong: reason.badUserNameOrPassword,
  certificate_status_stale: reason.serverUnavailable,
  client_id_mismatch: reason.clientIdentifierNotValid,
  snapshot_stale: reason.serverUnavailable,
  // Some clients never come back from a refusal for good, and of two with one key one is the device.
  key_suspended: reason.serverBusy,
  // To be tried again later; a DISCONNECT knows no 0x88 (MQTT 5, 3.14.2.1).
  unavailable: reason.serverBusy,
  outcome_unknown: reason.serverBusy,
  kicked: reason.administrativeAction,
  session_taken_over: reason.sessionTakenOver,
  // Some clients do not come back from 0x8e, and only who comes back shows that there are two.
  session_elsewhere: reason.serverBusy,
  too_many_connections: reason.quotaExceeded,
  quota_exceeded: reason.quotaExceeded,
  protocol_violation: reason.protocolError,
  packet_too_large: reason.packetTooLarge,
  payload_too_large: reason.packetTooLarge,
  rate_limited: reason.quotaExceeded,
  qos_denied: reason.qosNotSupported,
  retain_denied: reason.retainNotSupported,
  internal: reason.unspecifiedError,
}

/** The MQTT 5 reason code of a refusal; what is not named here is a question of rights. */
export const reasonOf = (problem: ProblemCode): number => codes[problem] ?? reason.notAuthorized
