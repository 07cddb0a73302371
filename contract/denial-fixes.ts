/** What it takes where the policy has no say: a fix for every cause. */
import type { DenialCause, DenialFix, Refusal } from './denials.ts'

export const plainFix = (denial: Refusal): DenialFix | undefined => fixes[denial.cause as DenialCause]?.(denial)

const command = (text: string, ...words: string[]): DenialFix => ({ kind: 'command', text, command: words })
const device = (text: string): DenialFix => ({ kind: 'device', text })
const wait = (text: string): DenialFix => ({ kind: 'wait', text })
const setting = (text: string, path: string, value: unknown): DenialFix => ({
  kind: 'configuration',
  text,
  setting: { path, value },
})

/** Of ours, and not of who was refused. */
const failure = (why: string): DenialFix =>
  command(`${why}; look into the log at that time, and whether all of it runs`, 'status')

/** Whom the peer says it is, where it cannot be known: an operator who makes a token for it decides about that. */
const claimed = ({ deviceId, claimedId, clientId, variables }: Refusal): string =>
  deviceId ?? claimedId ?? variables['subject.CN']?.[0] ?? clientId ?? 'DEVICE'
const enrollment =
  (why: string) =>
  (denial: Refusal): DenialFix =>
    command(`${why}: make a token and enroll the device with it`, 'token', 'create', '--device', claimed(denial))

const readmission = (denial: Refusal): DenialFix => {
  const why = 'the device was revoked, and its tokens and certificates with it'
  return command(
    `${why}; take that back (of one that was stolen: with --stolen-recovered), then make a token and enroll it again`,
    'device',
    'readmit',
    claimed(denial),
  )
}

const fixes: Record<DenialCause, (denial: Refusal) => DenialFix> = {
  certificate_missing: enrollment('the device has no certificate, or its client does not send it'),
  certificate_self_signed: enrollment('the certificate is one that the device made itself'),
  certificate_untrusted: enrollment('the certificate is of a CA that this listener does not trust'),
  certificate_bad_signature: enrollment('the certificate is not signed by the CA that it names'),
  certificate_expired: enrollment('the certificate has run out, and a renewal over EST would have to come before that'),
  certificate_wrong_usage: enrollment('the certificate is not one for devices'),
  certificate_unregistered: enrollment('the registry does not know the certificate'),
  certificate_pin_mismatch: enrollment('the registry knows another certificate of the device'),
  certificate_revoked: (denial) =>
    denial.stage === 'enrollment' ? readmission(denial) : enrollment('the certificate was revoked')(denial),
  certificate_superseded: () =>
    command('the device has a newer certificate; if it does not, somebody else has its key', 'incident', 'ls'),
  certificate_held: () => wait('the CA that issued the certificate has put it on hold, and it alone can end that'),
  key_suspended: () =>
    wait(
      'its key was used in two places at once; find out which of them is the device, and revoke it if one is not yours',
    ),
  certificate_not_yet_valid: ({ certificate }) =>
    wait(`the certificate begins at ${certificate?.notBefore}; look at the clocks if that has been`),
  certificate_status_stale: () =>
    device("bring the CA's new revocation list to the place that the configuration names; it is read within a second"),
  snapshot_stale: () =>
    command('the broker cannot reach enroll, which knows who is revoked; see that it runs', 'status'),
  client_id_mismatch: ({ deviceId = 'DEVICE' }) =>
    device(`connect with the client id ${deviceId}, or ${deviceId}: and a suffix`),
  password_wrong: ({ deviceId = 'DEVICE', listener }) =>
    command(
      `set its password in the file that the listener ${listener} names, and use that on the device`,
      'broker',
      'passwd',
      'FILE',
      deviceId,
    ),
  too_many_connections: ({ needed }) =>
    needed === undefined
      ? wait('too many connect at a time; they are let in as others leave')
      : setting('close old connections of the device, or let it have more', 'broker.maxConnectionsPerDevice', needed),
  connect_timeout: () => device('send a whole CONNECT right after the handshake'),
  handshake_failed: () => device('speak TLS 1.2 or 1.3 to this port, with a server name that the listener answers to'),
  protocol_violation: ({ message }) => device(`send what MQTT allows: ${message}`),
  packet_too_large: () => device('send smaller packets'),
  quota_exceeded: () => device('unsubscribe from something first, or keep less'),
  too_many_requests: () => wait('too many were refused lately; the next minute has room again'),
  session_taken_over: ({ deviceId = 'DEVICE' }) =>
    device(`two clients use one client id; give each its own, such as ${deviceId}:a and ${deviceId}:b`),
  session_elsewhere: () =>
    wait(
      'a client with its key and client id has come to another broker, from another place; is one of them not yours?',
    ),
  kicked: () => wait('an operator has ended this one session; it may connect again at once'),
  publish_denied: () => device('no policy can open this topic; publish on another'),
  subscribe_denied: () => device('no policy can open this filter; subscribe to another'),
  will_denied: () => device('no policy can open this topic; let the will be on another'),

  token_invalid: enrollment('the token is not one of this device'),
  token_expired: enrollment('the token has run out'),
  token_spent: enrollment('the token was used for another key'),
  token_void: (denial) => readmission(denial),
  unauthenticated: enrollment('nothing was shown that could be believed'),
  device_unknown: enrollment('the device is not in the registry'),
  device_revoked: (denial) => readmission(denial),
  device_held: (denial) =>
    command('an operator has put the device on hold; take that back', 'device', 'enable', claimed(denial)),
  late_renewal_spent: (denial) =>
    command('the permission was used for another key; give a new one', 'enroll', 'allow-late', claimed(denial)),
  approval_denied: () => command('an operator has said no; see who and why', 'enroll', 'approvals', 'ls', '--all'),
  approval_spent: enrollment('what was approved was used'),
  approval_queue_full: () => command('decide about what waits', 'enroll', 'approvals', 'ls'),
  csr_subject_mismatch: (denial) => device(`ask for the subject CN=${claimed(denial)}, alone`),
  csr_signature_invalid: () => device('sign the request with the key that is in it'),
  csr_malformed: () => device('send base64 of one DER PKCS#10'),
  csr_key_unsupported: ({ message }) => device(`make a key of a kind that the profile takes: ${message}`),
  key_compromised: () => device('make a new key: this one was reported as compromised'),
  csr_key_too_weak: () => device('make a larger key; P-256 is the usual choice'),
  subject_changed: () => device('ask for the subject and the names of the current certificate'),
  label_mismatch: ({ message }) => device(`use the EST path of the profile: ${message}`),
  media_type_unsupported: ({ message }) => device(message),
  method_not_allowed: ({ message }) => device(message),
  channel_binding_missing: () => device('put the channel binding of the connection into challengePassword'),
  channel_binding_mismatch: () => device('bind the request to the connection that carries it, or leave that out'),
  keygen_disabled: () => device('make the key on the device, and use simpleenroll'),
  qos_denied: () => device('send at a lower QoS'),
  retain_denied: () => device('send without RETAIN'),
  payload_too_large: () => device('send less at a time'),
  rate_limited: () => device('publish more slowly'),
  connect_condition: () => wait('the policy lets it in at another time, or from another network'),
  delivery_denied: () => device('unsubscribe from what the policy keeps back'),
  slow_reader: () => device('read faster, subscribe to less, or subscribe at QoS 1, which waits for the reader'),
  quarantined: () => device('connect again: what led into quarantine is over'),

  hardware_stolen: ({ message }) => device(`${message}; keep it, if you have it in hand, and look at the incident`),
  device_not_allowed: ({ message }) =>
    command(`${message}; put it on the allow-list`, 'device', 'allow', '--file', 'serials.csv'),
  claim_refused: () => command('why not is in the audit log alone', 'audit', 'tail', '--action', 'enrollment.refused'),
  claim_spent: enrollment('the device was claimed already'),
  evidence_mismatch: () => device('show credentials that are all of this device'),
  request_malformed: ({ message }) => device(`send what EST allows: ${message}`),
  not_found: ({ message }) => device(`ask for another path: ${message}`),
  request_timeout: () => device('send each request whole at once; a slow or lossy network does not'),
  headers_too_large: ({ message }) => device(`send fewer or shorter headers: ${message}`),
  misdirected: ({ message }) => device(`ask for a name that the server certificate has: ${message}`),
  body_too_large: ({ message }) => device(`send a smaller request: ${message}`),
  cmc_malformed: ({ message }) => device(`send a Full PKI Request as RFC 5272 has it: ${message}`),
  cmc_signature_invalid: () =>
    device('sign with the certificate that the connection shows, or with the key that is in the request'),
  key_encryption_required: () =>
    device('name a key of the device that the new one can be encrypted for (RFC 7030 4.4.1)'),
  key_encryption_unavailable: ({ message }) => device(`name another key to encrypt for: ${message}`),
  channel_binding_unavailable: () => device('connect with TLS 1.3'),
  profile_unknown: ({ message }) => failure(`the configuration has no such profile any more: ${message}`),
  conflict: () => wait('something else was changed at the same time; the same request may be sent again'),
  lint_failed: ({ message }) => failure(`the profile asks for what no certificate may have: ${message}`),
  key_unavailable: () => failure('the key of the CA cannot be used'),
  data_damaged: () => failure('the data folder cannot be read'),
  internal: () => failure('it is no fault of the device'),
  unavailable: () => wait('a store did not take it; if that lasts, its disk is full or failing, and the log says so'),
  outcome_unknown: () => wait('a disk did not say whether it has it; the same may be sent again'),
}
