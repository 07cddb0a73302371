/**
 * The one registry of refusals. A code is stable: scripts, logs, alerts and `docs/errors.md` know it by name.
 * `status` is the HTTP status an edge answers with (RFC 9110), also where the same refusal reaches MQTT as a CONNACK.
 */
export const problems = {
  // the caller's request
  request_malformed: { status: 400, title: 'The request cannot be read' },
  unauthenticated: { status: 401, title: 'No accepted credential was presented' },
  forbidden: { status: 403, title: 'The credential does not allow this' },
  role_insufficient: { status: 403, title: 'The role of the caller does not allow this' },
  not_found: { status: 404, title: 'There is no such thing' },
  method_not_allowed: { status: 405, title: 'The path exists, the method does not' },
  conflict: { status: 409, title: 'The thing changed or exists already' },
  request_timeout: { status: 408, title: 'The request did not become complete in time' },
  precondition_failed: { status: 412, title: 'The thing is not as the caller has seen it' },
  body_too_large: { status: 413, title: 'The body is larger than allowed' },
  media_type_unsupported: { status: 415, title: 'The content type is not the expected one' },
  misdirected: { status: 421, title: 'The request is for another server' },
  headers_too_large: { status: 431, title: 'The headers are larger than allowed' },
  too_many_requests: { status: 429, title: 'Too many requests' },
  quota_exceeded: { status: 429, title: 'The device has stored as much as it may' },
  internal: { status: 500, title: 'The service failed' },
  unavailable: { status: 503, title: 'The service cannot answer now' },
  outcome_unknown: { status: 503, title: 'The store did not say whether the change was made' },

  // certificate requests
  csr_malformed: { status: 400, title: 'The certificate request cannot be read' },
  csr_signature_invalid: { status: 400, title: 'The certificate request does not prove possession of its key' },
  csr_key_unsupported: { status: 400, title: 'The key type is not accepted' },
  csr_key_too_weak: { status: 400, title: 'The key is too weak' },
  key_compromised: { status: 403, title: 'The key was reported as compromised' },
  csr_subject_mismatch: { status: 403, title: 'The certificate request names another subject than the credential' },
  channel_binding_missing: { status: 400, title: 'The certificate request does not name its TLS connection' },
  channel_binding_unavailable: { status: 400, title: 'The TLS connection has nothing to bind to' },
  channel_binding_mismatch: { status: 403, title: 'The certificate request names another TLS connection' },
  cmc_malformed: { status: 400, title: 'The CMC request cannot be read' },
  cmc_signature_invalid: { status: 400, title: 'The CMC request is not signed by who sends it' },
  keygen_disabled: { status: 403, title: 'Keys of this profile are not generated here' },
  key_encryption_required: { status: 403, title: 'The profile hands out keys only encrypted' },
  key_encryption_unavailable: { status: 400, title: 'The key cannot be encrypted as asked' },
  subject_changed: { status: 403, title: 'A re-enrollment keeps its subject' },
  lint_failed: { status: 500, title: 'The certificate would break its profile' },
  key_unavailable: { status: 503, title: 'The signing key cannot be used' },

  // devices and enrollment
  device_unknown: { status: 404, title: 'There is no such device' },
  device_exists: { status: 409, title: 'The device exists already' },
  device_revoked: { status: 403, title: 'The device is revoked' },
  device_held: { status: 403, title: 'The device is on hold' },
  profile_unknown: { status: 400, title: 'There is no such certificate profile' },
  label_mismatch: { status: 403, title: 'The device is not enrolled under this EST label' },
  token_invalid: { status: 401, title: 'The enrollment token is not valid for this device' },
  token_expired: { status: 401, title: 'The enrollment token has expired' },
  token_spent: { status: 403, title: 'The enrollment token was used for another key' },
  token_void: { status: 403, title: 'The enrollment token was voided' },
  device_not_allowed: { status: 403, title: 'The device is not on the allow-list' },
  hardware_stolen: { status: 403, title: 'The hardware is that of a stolen device' },
  claim_refused: { status: 403, title: 'The claim certificate does not enroll this device' },
  claim_spent: { status: 403, title: 'The device was claimed already' },
  approval_unknown: { status: 404, title: 'No such request waits for approval' },
  approval_denied: { status: 403, title: 'An operator denied the request' },
  approval_spent: { status: 403, title: 'The approved request had its certificate' },
  approval_queue_full: { status: 429, title: 'Too many requests wait for approval' },
  denial_unknown: { status: 404, title: 'No such denial is kept' },
  evidence_mismatch: { status: 403, title: 'The credentials are of different devices' },
  late_renewal_unknown: { status: 404, title: 'The device has no permission to renew late' },
  late_renewal_spent: { status: 403, title: 'The permission to renew late was used for another key' },
  certificate_unknown: { status: 404, title: 'There is no such certificate' },
  last_operator: { status: 409, title: 'No operator would be left' },

  // operators
  operator_unknown: { status: 404, title: 'There is no such operator' },
  operator_exists: { status: 409, title: 'The name of the operator is taken' },
  api_token_invalid: { status: 401, title: 'The API token is not valid' },
  api_token_expired: { status: 401, title: 'The API token has expired' },
  api_token_unknown: { status: 404, title: 'There is no such API token' },
  api_token_exists: { status: 409, title: 'The name of the API token is taken' },
  operator_disabled: { status: 403, title: 'The operator is disabled or removed' },

  // certificates at a connection
  certificate_missing: { status: 401, title: 'No client certificate was presented' },
  certificate_self_signed: { status: 401, title: 'The client certificate is self-signed' },
  certificate_untrusted: { status: 401, title: 'The client certificate is of an unknown authority' },
  certificate_expired: { status: 403, title: 'The client certificate has expired' },
  certificate_not_yet_valid: { status: 403, title: 'The client certificate is not valid yet' },
  certificate_wrong_usage: { status: 403, title: 'The client certificate is not for client authentication' },
  certificate_superseded: { status: 403, title: 'A newer certificate of the device is in use' },
  certificate_revoked: { status: 403, title: 'The client certificate is revoked' },
  certificate_bad_signature: { status: 401, title: 'The client certificate is not signed by the CA that it names' },
  certificate_held: { status: 403, title: 'The client certificate is on hold' },
  key_suspended: { status: 403, title: 'The key of the client certificate was used in two places at once' },
  certificate_pin_mismatch: { status: 403, title: 'The client certificate is not the one that the registry knows' },
  certificate_status_stale: { status: 503, title: 'The revocation list of the CA has run out' },
  certificate_unregistered: { status: 403, title: 'The client certificate is not in the registry' },

  // MQTT
  password_wrong: { status: 401, title: 'The user name or password of the device is wrong' },
  client_id_mismatch: { status: 403, title: 'The MQTT client id is not the device id' },
  protocol_violation: { status: 400, title: 'The peer broke the MQTT protocol' },
  packet_too_large: { status: 413, title: 'The MQTT packet is larger than allowed' },
  connect_timeout: { status: 408, title: 'No complete MQTT CONNECT arrived in time' },
  handshake_failed: { status: 400, title: 'The TLS handshake did not finish' },
  publish_denied: { status: 403, title: 'The policy does not allow this publish' },
  subscribe_denied: { status: 403, title: 'The policy does not allow this subscription' },
  will_denied: { status: 403, title: 'The policy does not allow this will' },
  qos_denied: { status: 403, title: 'The policy does not allow this quality of service' },
  retain_denied: { status: 403, title: 'The policy does not allow this message to be retained' },
  payload_too_large: { status: 413, title: 'The payload is larger than the policy allows' },
  rate_limited: { status: 429, title: 'The device publishes more than its policy gives it' },
  connect_condition: { status: 403, title: 'The policy does not allow a connection now or from there' },
  delivery_denied: { status: 403, title: 'The policy does not allow this delivery' },
  too_many_connections: { status: 429, title: 'The device has too many connections' },
  quarantined: { status: 403, title: 'The connection is in quarantine' },
  slow_reader: { status: 429, title: 'The peer reads more slowly than its messages arrive' },
  session_taken_over: { status: 409, title: 'Another connection took the client id over' },
  session_elsewhere: { status: 409, title: 'The client id has come to another broker, from another place' },
  kicked: { status: 403, title: 'An operator has ended the session' },
  snapshot_stale: { status: 503, title: 'The broker does not yet know who is revoked' },

  // the command line
  gateway_untrusted: { status: 502, title: 'The gateway is not the one that was pinned' },
  renewal_due: { status: 403, title: 'The certificate is due for renewal' },
  unhealthy: { status: 503, title: 'Something is wrong with the gateway' },
  interrupted: { status: 500, title: 'The command was interrupted before its end' },

  backup_unreadable: { status: 400, title: 'The backup cannot be read' },
  audit_broken: { status: 409, title: 'The audit log is not as it was written' },

  // set-up
  config_invalid: { status: 400, title: 'The configuration is not valid' },
  policy_invalid: { status: 400, title: 'The policy is not valid' },
  port_in_use: { status: 409, title: 'A port is in use' },
  data_in_use: { status: 409, title: 'The data folder is in use by another instance' },
  data_damaged: { status: 500, title: 'The data folder cannot be used as it is' },
  key_permissions: { status: 500, title: 'A private key can be read by others' },
  key_passphrase: { status: 500, title: 'A private key cannot be opened with its passphrase' },
} as const satisfies Record<string, { status: number; title: string }>

export type ProblemCode = keyof typeof problems

/** Codes that stop a start: the operator has to change something first, so the exit code is 2. */
export const setUpProblems: ReadonlySet<ProblemCode> = new Set([
  'config_invalid',
  'policy_invalid',
  'port_in_use',
  'data_in_use',
  'data_damaged',
  'key_permissions',
  'key_passphrase',
])

/** An RFC 9457 body. */
export type Problem = {
  type: string
  title: string
  status: number
  detail: string
  instance?: string
  code: ProblemCode
}

export const problemType = (code: ProblemCode): string => `urn:fleetgate:problem:${code.replaceAll('_', '-')}`
