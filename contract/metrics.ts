/** Every metric there is. No label ever names a device, a topic or an address: its values are codes, or names of the configuration. */
export type MetricRow = {
  readonly type: 'counter' | 'gauge' | 'histogram'
  readonly help: string
  readonly labels: readonly string[]
  /** Upper bounds, of a histogram. */
  readonly buckets?: readonly number[]
}
type Table = Readonly<Record<string, MetricRow>>

const counter = (help: string, ...labels: string[]): MetricRow => ({ type: 'counter', help, labels })
const gauge = (help: string, ...labels: string[]): MetricRow => ({ type: 'gauge', help, labels })

export const brokerMetrics = {
  fleetgate_broker_connections: gauge(
    'Open connections, by listener and state: handshaken, connecting, live, quarantined',
    'listener',
    'state',
  ),
  fleetgate_broker_handshakes_total: counter(
    'Connections by what verification found and what the listener made of it; verification is unknown where it never came to that',
    'listener',
    'verification',
    'action',
  ),
  fleetgate_broker_refusals_total: counter('Whatever was refused, each of them a denial', 'stage', 'cause'),
  fleetgate_broker_messages_received_total: counter('Messages from clients (PUBLISH), also those that were refused'),
  fleetgate_broker_messages_sent_total: counter(
    'Messages to clients, each to each of them, and again where one is sent again',
  ),
  fleetgate_broker_packets_received_total: counter('MQTT packets from clients'),
  fleetgate_broker_packets_sent_total: counter('MQTT packets to clients'),
  fleetgate_broker_received_bytes_total: counter('Octets of MQTT from clients'),
  fleetgate_broker_sent_bytes_total: counter('Octets of MQTT to clients'),
  fleetgate_broker_messages_dropped_total: counter(
    'Messages that a connected client did not get: slow_reader (QoS 0), packet_too_large for it, expired',
    'reason',
  ),
  fleetgate_broker_sessions: gauge('Sessions that are kept, connected or not'),
  fleetgate_broker_queued_messages: gauge('Messages that wait for a session, on disk'),
  fleetgate_broker_queued_bytes: gauge('Octets of them, and of the filters of the sessions'),
  fleetgate_broker_retained_messages: gauge('Retained messages of devices'),
  fleetgate_broker_feed_connected: gauge('1 while the trust feed is followed'),
  fleetgate_broker_feed_age_seconds: gauge('Age of what is known of revocations; missing before it was ever known'),
  fleetgate_broker_feed_sequence: gauge('Last event of the feed that is in force'),
  fleetgate_broker_feed_waiting_events: gauge('Lines of the feed that were heard and are not in force yet'),
  fleetgate_broker_ready: gauge(
    'What /readyz says: 1 for a part that can do its work, feed, certificate or store',
    'part',
  ),
  fleetgate_broker_certificate_not_after_seconds: gauge('End of the certificate of this broker, in seconds since 1970'),
} satisfies Table

/** What an OCSP request may be answered with. */
export const ocspAnswers = ['kept', 'signed', 'malformedRequest', 'unauthorized', 'tryLater'] as const
export type OcspAnswerKind = (typeof ocspAnswers)[number]

export const enrollMetrics = {
  fleetgate_enroll_requests_total: counter(
    'EST requests; outcome is ok, pending, or the code of the refusal',
    'operation',
    'outcome',
  ),
  fleetgate_enroll_request_duration_seconds: {
    type: 'histogram',
    help: 'EST requests, from the last octet of the request to the answer',
    labels: ['operation'],
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
  },
  fleetgate_enroll_refusals_total: counter(
    'Whatever was refused at enrollment, each of them a denial, handshakes that failed among them',
    'cause',
  ),
  fleetgate_enroll_devices: gauge('Devices of the registry by status, counted up to 10,000', 'status'),
  fleetgate_enroll_tokens: gauge('Enrollment tokens that are kept, spent ones too, counted up to 10,000'),
  fleetgate_enroll_approvals_pending: gauge('Requests that wait for an operator, counted up to 10,000'),
  fleetgate_enroll_certificates_expiring: gauge(
    'Certificates that end within so many days, revoked ones too, counted up to 10,000',
    'days',
  ),
  fleetgate_enroll_expiry_notices_total: counter(
    'Certificates that had so many days left while their devices still needed them, each told once for each of these days',
    'days',
  ),
  fleetgate_enroll_feed_broker_connected: gauge('1 while the broker follows the trust feed', 'broker'),
  fleetgate_enroll_feed_broker_lag_events: gauge(
    'Events of the feed that the broker has not reported to be in force',
    'broker',
  ),
  fleetgate_enroll_crl_age_seconds: gauge(
    'Age of the oldest revocation list of each scope: all, shards, deltas, root; missing before there are any',
    'scope',
  ),
  fleetgate_enroll_crl_next_update_seconds: gauge(
    'End of the list of each scope that ends first, in seconds since 1970',
    'scope',
  ),
  fleetgate_enroll_crl_lag_seconds: gauge(
    'Age of the oldest event of the feed that revocation lists do not carry yet; 0 where they carry all',
  ),
  fleetgate_enroll_ocsp_answers_total: counter(
    'OCSP answers: kept is one that was signed before, signed one that was signed for it; the others are the failures of RFC 6960 2.3',
    'answer',
  ),
  fleetgate_enroll_ready: gauge('What /readyz says: 1 for a part that can do its work, certificate or store', 'part'),
  fleetgate_enroll_certificate_not_after_seconds: gauge('End of the certificate of enroll, in seconds since 1970'),
  fleetgate_enroll_ca_not_after_seconds: gauge(
    'End of the certificate of each CA, issuing and root, in seconds since 1970; no certificate outlives that of its CA',
    'ca',
  ),
} satisfies Table

export type BrokerMetric = keyof typeof brokerMetrics
export type EnrollMetric = keyof typeof enrollMetrics
