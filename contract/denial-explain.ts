/** Why something was refused, and what to change so that it passes: made of a denial and the policy of that moment. */
import type { Denial, DenialFix, PolicyEdit } from './denials.ts'
import type { PolicyDocument, PolicyStatement } from './policy-document.ts'
import { explainPolicy, type Question } from './policy-explain.ts'
import { fixAttribute, fixConditions, fixLimit, fixRate, fixTopic, statementsNear } from './policy-fix.ts'
import { expandPattern, valueHolds } from './policy-match.ts'
import { factNameOf, type PrincipalFacts } from './principal-facts.ts'
import type { ProblemCode } from './problems.ts'
import { filterCovers } from './topics.ts'

/** A document may have thousands; those that are for the device come first. */
const maxStatements = 50

type Explained = Pick<Denial, 'statements' | 'nearest' | 'fix'>

/** @param document the policy that refused; without one, as at enrollment, only what it takes no policy to say */
export function explainDenial(denial: Denial, document: PolicyDocument | undefined): Explained {
  const { asked, variables } = denial
  const fix = fixOf(denial, document)
  const answer = fix === undefined ? {} : { fix }
  if (document === undefined) return answer
  const facts = variables as PrincipalFacts
  if (asked === undefined) return answer
  const question = questionOf(asked)
  const { nearest } = explainPolicy(document, facts, question)
  return { ...answer, statements: triedOf(document, facts, question), ...(nearest === undefined ? {} : { nearest }) }
}

const questionOf = ({ action, topic, qos, retain, bytes }: NonNullable<Denial['asked']>): Question =>
  action === 'publish' ? { action, topic, qos, retain, bytes } : { action, topic }

function triedOf(
  { policies }: PolicyDocument,
  facts: PrincipalFacts,
  question: Question,
): { statement: string; because: string }[] {
  const list = question.action === 'publish' ? 'publish' : 'subscribe'
  const missing = ({ match }: PolicyStatement): [string, string[]][] =>
    Object.entries(match).filter(([name, wanted]) => !valueHolds(wanted, facts[factNameOf(name)]))
  const rows = policies.flatMap((statement) => {
    const { name, allow, deny } = statement
    if (allow[list] === undefined && deny[list] === undefined) return []
    const absent = missing(statement)
    if (absent.length > 0) {
      const wants = absent.map(([key, wanted]) => `${key} ${wanted.join(' or ')}`).join(', ')
      return [{ statement: name, because: `is for ${wants}`, isFor: false }]
    }
    const speaks = (patterns: string[] = []): string | undefined =>
      patterns.find((pattern) => expandPattern(pattern, facts).some((filter) => filterCovers(filter, question.topic)))
    const denies = speaks(deny[list])
    const allows = speaks(allow[list])
    const because =
      denies !== undefined
        ? `denies ${denies}`
        : allows !== undefined
          ? `allows ${allows}`
          : `allows ${(allow[list] ?? ['nothing']).slice(0, 5).join(', ')}`
    return [{ statement: name, because, isFor: true }]
  })
  return rows
    .toSorted((a, b) => Number(b.isFor) - Number(a.isFor))
    .slice(0, maxStatements)
    .map(({ statement, because }) => ({ statement, because }))
}

function fixOf(denial: Denial, document: PolicyDocument | undefined): DenialFix | undefined {
  const near = document && statementsNear(document, denial.variables as PrincipalFacts)
  return (near && policyFix(denial, near)) ?? fixes[denial.cause]?.(denial)
}

function policyFix(denial: Denial, document: PolicyDocument): DenialFix | undefined {
  const { cause, asked, deviceId, needed, remoteAddress = '' } = denial
  const facts = denial.variables as PrincipalFacts
  switch (cause) {
    case 'connect_condition':
      return editing(fixConditions(document, facts, { now: new Date(denial.firstAt), remoteAddress }))
    case 'rate_limited':
      return editing(fixRate(document, facts))
    case 'too_many_connections':
      return editing(fixLimit(document, facts, 'connections', needed ?? 0))
    case 'quota_exceeded':
      return editing(fixLimit(document, facts, 'subscriptions', needed ?? 0))
  }
  if (asked === undefined || !topicCauses.has(cause)) return undefined
  const question = questionOf(asked)
  const attribute = fixAttribute(document, facts, question)
  if (attribute !== undefined && deviceId !== undefined) {
    const { name, value } = attribute
    const text = `a statement is for devices whose attribute ${name} is ${value}; if this is one, say so`
    return command(text, 'device', 'set', deviceId, '--attribute', `${name}=${value}`)
  }
  return editing(fixTopic(document, facts, question))
}

const topicCauses: ReadonlySet<ProblemCode> = new Set([
  'publish_denied',
  'subscribe_denied',
  'delivery_denied',
  'will_denied',
  'qos_denied',
  'retain_denied',
  'payload_too_large',
])

function editing(edits: PolicyEdit[] | undefined): DenialFix | undefined {
  if (edits === undefined || edits.length === 0) return undefined
  return { kind: 'policy', text: edits.map(sentenceOf).join('; '), edits }
}

/** As it would stand in the file: every JSON value is a YAML value. */
function sentenceOf({ statement, path, value }: PolicyEdit): string {
  if (path === '') {
    const { name, match, allow } = value as PolicyStatement
    return `add the statement { name: ${name}, match: ${JSON.stringify(match)}, allow: ${JSON.stringify(allow)} }`
  }
  if (value === null) return `in ${statement}, take ${path} out`
  return `in ${statement}, set ${path}: ${JSON.stringify(value)}`
}

const command = (text: string, ...words: string[]): DenialFix => ({ kind: 'command', text, command: words })
const device = (text: string): DenialFix => ({ kind: 'device', text })
const wait = (text: string): DenialFix => ({ kind: 'wait', text })
const setting = (text: string, path: string, value: unknown): DenialFix => ({
  kind: 'configuration',
  text,
  setting: { path, value },
})

/** Whom the peer says it is, where it cannot be known: an operator who makes a token for it decides about that. */
const claimed = ({ deviceId, claimedId, clientId, variables }: Denial): string =>
  deviceId ?? claimedId ?? variables['subject.CN']?.[0] ?? clientId ?? 'DEVICE'
const enrollment =
  (why: string) =>
  (denial: Denial): DenialFix =>
    command(`${why}: make a token and enroll the device with it`, 'token', 'create', '--device', claimed(denial))

const readmission = (denial: Denial): DenialFix => {
  const why = 'the device was revoked, and its tokens and certificates with it'
  return command(`${why}; take that back, then make a token and enroll it again`, 'device', 'readmit', claimed(denial))
}

/** What it takes where the policy has no say. */
const fixes: Partial<Record<ProblemCode, (denial: Denial) => DenialFix>> = {
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
  certificate_held: () => wait('the CA that issued the certificate has put it on hold, and it alone can end that'),
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
  approval_denied: () => command('an operator has said no; see who and why', 'enroll', 'approvals', 'ls', '--all'),
  approval_spent: enrollment('what was approved was used'),
  approval_queue_full: () => command('decide about what waits', 'enroll', 'approvals', 'ls'),
  csr_subject_mismatch: (denial) => device(`ask for the subject CN=${claimed(denial)}, alone`),
  csr_signature_invalid: () => device('sign the request with the key that is in it'),
  csr_malformed: () => device('send base64 of one DER PKCS#10'),
  csr_key_unsupported: ({ message }) => device(`make a key of a kind that the profile takes: ${message}`),
  csr_key_too_weak: () => device('make a larger key; P-256 is the usual choice'),
  subject_changed: () => device('ask for the subject and the names of the current certificate'),
  label_mismatch: ({ message }) => device(`use the EST path of the profile: ${message}`),
  media_type_unsupported: ({ message }) => device(message),
  method_not_allowed: ({ message }) => device(message),
  channel_binding_missing: () => device('put the channel binding of the connection into challengePassword'),
  channel_binding_mismatch: () => device('bind the request to the connection that carries it, or leave that out'),
  keygen_disabled: () => device('make the key on the device, and use simpleenroll'),
}
