/** Every cause that a denial can have, each as it comes, with the fix that is told without a policy that could give one. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { explainDenial } from '../../contract/denial-explain.ts'
import { type Denial, type DenialCause, type DenialStage, ownProblems } from '../../contract/denials.ts'
import { problems } from '../../contract/problems.ts'

type Row = [stage: DenialStage, fix: RegExp, more?: Partial<Denial>]
const token = /^command .*: token create --device cam-7$/
const again = /^command .*: device readmit cam-7$/
const log = /^command .*look into the log.*: status$/

const rows: Record<DenialCause, Row> = {
  certificate_missing: ['tls', token],
  certificate_self_signed: ['tls', token],
  certificate_untrusted: ['tls', token],
  certificate_bad_signature: ['tls', token],
  certificate_expired: ['connect', token],
  certificate_not_yet_valid: ['connect', /^wait .*begins at/],
  certificate_wrong_usage: ['connect', token],
  certificate_revoked: ['session', token],
  certificate_held: ['connect', /^wait .*on hold/],
  key_suspended: ['connect', /^wait its key was used in two places/],
  certificate_pin_mismatch: ['connect', token],
  certificate_status_stale: ['connect', /^device .*revocation list/],
  certificate_superseded: ['enrollment', /^command .*newer certificate.*: incident ls$/],
  certificate_unregistered: ['connect', token],
  device_revoked: ['session', again],
  device_held: ['connect', /^command .*on hold.*: device enable cam-7$/],
  device_unknown: ['enrollment', token],
  snapshot_stale: ['connect', /^command .*cannot reach enroll.*: status$/],
  client_id_mismatch: ['connect', /^device connect with the client id cam-7/],
  password_wrong: ['connect', /^command .*listener web.*: broker passwd FILE cam-7$/, { listener: 'web' }],
  too_many_connections: ['connect', /^configuration .*$/, { needed: 11 }],
  connect_timeout: ['connect', /^device send a whole CONNECT/],
  handshake_failed: ['tls', /^device speak TLS/],
  protocol_violation: ['session', /^device send what MQTT allows: a QoS of 3/, { message: 'a QoS of 3' }],
  packet_too_large: ['delivery', /^device .*smaller packets/],
  quota_exceeded: ['delivery', /^device unsubscribe/],
  too_many_requests: ['publish', /^wait .*minute/],
  kicked: ['session', /^wait .*may connect again at once/],
  session_taken_over: ['session', /^device .*cam-7:a and cam-7:b/],
  session_elsewhere: ['session', /^wait a client with its key .* from another place/],
  slow_reader: ['delivery', /^device read faster/],
  quarantined: ['publish', /^device connect again/, { state: 'valid', action: 'quarantine' }],
  connect_condition: ['connect', /^wait .*another time, or from another network/],
  publish_denied: ['publish', /^device .*publish on another/],
  subscribe_denied: ['subscribe', /^device .*subscribe to another/],
  will_denied: ['will', /^device .*the will be on another/],
  delivery_denied: ['delivery', /^device unsubscribe/],
  qos_denied: ['publish', /^device .*lower QoS/],
  retain_denied: ['publish', /^device .*without RETAIN/],
  payload_too_large: ['publish', /^device send less/],
  rate_limited: ['publish', /^device publish more slowly/],
  unavailable: ['publish', /^wait .*disk is full/],
  outcome_unknown: ['publish', /^wait .*sent again/],
  internal: ['session', log],

  token_invalid: ['enrollment', token],
  token_expired: ['enrollment', token],
  token_spent: ['enrollment', token],
  token_void: ['enrollment', again],
  unauthenticated: ['enrollment', token],
  late_renewal_spent: ['enrollment', /^command .*: enroll allow-late cam-7$/],
  approval_denied: ['enrollment', /^command .*: enroll approvals ls --all$/],
  approval_spent: ['enrollment', token],
  approval_queue_full: ['enrollment', /^command .*: enroll approvals ls$/],
  device_not_allowed: ['enrollment', /^command .*allow-list: device allow --file serials.csv$/],
  hardware_stolen: ['enrollment', /^device .*look at the incident$/],
  claim_refused: ['enrollment', /^command .*: audit tail --action enrollment.refused$/],
  claim_spent: ['enrollment', token],
  evidence_mismatch: ['enrollment', /^device .*all of this device/],
  csr_subject_mismatch: ['enrollment', /^device .*CN=cam-7/],
  csr_signature_invalid: ['enrollment', /^device sign/],
  csr_malformed: ['enrollment', /^device .*PKCS#10/],
  csr_key_unsupported: ['enrollment', /^device make a key/],
  key_compromised: ['enrollment', /^device make a new key/],
  csr_key_too_weak: ['enrollment', /^device make a larger key/],
  subject_changed: ['enrollment', /^device .*current certificate/],
  label_mismatch: ['enrollment', /^device use the EST path/],
  media_type_unsupported: ['enrollment', /^device x/, { message: 'x takes y' }],
  method_not_allowed: ['enrollment', /^device x/, { message: 'x takes POST' }],
  request_malformed: ['enrollment', /^device send what EST allows/],
  request_timeout: ['enrollment', /^device send each request whole/],
  headers_too_large: ['enrollment', /^device send fewer or shorter headers/],
  misdirected: ['enrollment', /^device ask for a name that the server certificate has/],
  not_found: ['enrollment', /^device ask for another path/],
  body_too_large: ['enrollment', /^device send a smaller request/],
  channel_binding_missing: ['enrollment', /^device .*challengePassword/],
  channel_binding_mismatch: ['enrollment', /^device bind/],
  channel_binding_unavailable: ['enrollment', /^device .*TLS 1.3/],
  cmc_malformed: ['enrollment', /^device .*RFC 5272/],
  cmc_signature_invalid: ['enrollment', /^device sign/],
  keygen_disabled: ['enrollment', /^device .*simpleenroll/],
  key_encryption_required: ['enrollment', /^device name a key/],
  key_encryption_unavailable: ['enrollment', /^device name another key/],
  profile_unknown: ['enrollment', log],
  conflict: ['enrollment', /^wait .*sent again/],
  lint_failed: ['enrollment', log],
  key_unavailable: ['enrollment', log],
  data_damaged: ['enrollment', log],
}

for (const [cause, [stage, fix, more = {}]] of Object.entries(rows) as [DenialCause, Row][]) {
  test(`${cause} at ${stage} is explained with a fix`, () => {
    const denial: Denial = {
      id: '0123456789ab',
      stage,
      cause,
      message: cause,
      count: 1,
      firstAt: '2026-03-04T10:30:00.000Z',
      lastAt: '2026-03-04T10:30:00.000Z',
      by: 'broker-1',
      deviceId: 'cam-7',
      variables: { 'device.id': ['cam-7'] },
      ...more,
    }
    const { kind, text = '', command = [] } = explainDenial(denial, undefined).fix ?? {}
    assert.match(`${kind} ${text}${command.length === 0 ? '' : `: ${command.join(' ')}`}`, fix)
  })
}

test('every problem is a cause with a fixture, or one that no device or stranger is refused for', () => {
  assert.deepEqual([...Object.keys(rows), ...ownProblems].toSorted(), Object.keys(problems).toSorted())
})

test('what was asked for in quarantine is not explained by a policy, which was not asked', () => {
  const denial = {
    id: '0123456789ab',
    stage: 'publish',
    cause: 'certificate_expired',
    message: 'in quarantine',
    count: 1,
    firstAt: '2026-03-04T10:30:00.000Z',
    lastAt: '2026-03-04T10:30:00.000Z',
    by: 'broker-1',
    deviceId: 'cam-7',
    action: 'quarantine',
    asked: { action: 'publish', topic: 'x', qos: 0, retain: false, bytes: 0 },
    variables: {},
  } as const
  const { fix, statements } = explainDenial(denial, { policies: [] })
  assert.deepEqual([fix?.command?.[0], statements], ['token', undefined])
})
