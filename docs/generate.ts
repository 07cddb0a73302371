/** Prints the reference pages from the code: `npm run docs`. test/docs.test.ts fails when they are out of date. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import {
  allowanceView,
  approvalView,
  certificateReceipt,
  certificateView,
  deviceView,
  holdReceipt,
  policyView,
  revocationReceipt,
  statusView,
  theftReceipt,
  tokenView,
} from '../contract/admin-api.ts'
import { auditView } from '../contract/audit-api.ts'
import { bulkReceipt } from '../contract/bulk-api.ts'
import { configurationSchema } from '../contract/configuration-schema.ts'
import { credentialReceipt } from '../contract/credential-api.ts'
import { crlView, publishReceipt } from '../contract/crl-api.ts'
import { denialView } from '../contract/denials.ts'
import { eventMeanings, eventTypes, fleetEvent, presence } from '../contract/fleet-events.ts'
import { incidentView } from '../contract/incidents.ts'
import { lateRenewalView } from '../contract/late-renewal-api.ts'
import { brokerMetrics, enrollMetrics, type MetricRow } from '../contract/metrics.ts'
import { type ProblemCode, problems, problemType, setUpProblems } from '../contract/problems.ts'
import { kickReceipt, sessionView } from '../contract/session-api.ts'
import { openApiOf } from '../enroll/admin/openapi.ts'
import { routes } from '../enroll/admin/table.ts'
import { advice } from './advice.ts'

type Node = {
  type?: string
  description?: string
  default?: unknown
  properties?: Record<string, Node>
  additionalProperties?: Node | boolean
  enum?: string[]
  minimum?: number
  maximum?: number
  items?: Node & { required?: string[] }
  pattern?: string
}

/** One numbered statement of appendix B. */
type Statement = {
  number: string
  /** whom it binds; what a client alone must do has no test but of what becomes of one that does not */
  for: 'server' | 'both' | 'client'
  /** in our own words */
  gist: string
  /** `folder/file: title` of a test, `vector: name`, or `dialogue-5: name` and the like */
  shown: string[]
  /** why it asks nothing of this server */
  void?: string
  /** where we do otherwise on purpose */
  differs?: string
  note?: string
}
type Standard = { standard: string; statements: Statement[] }

const readStandard = (version: string): Standard =>
  JSON.parse(readFileSync(join(import.meta.dirname, 'mqtt-behaviour', `${version}.json`), 'utf8'))

/** By version, as its title says it. */
export const standards: Record<string, Standard> = { '3.1.1': readStandard('3.1.1'), '5.0': readStandard('5.0') }

const schema = configurationSchema() as Node
const shapeOf = (view: z.ZodType): Node & { required?: string[] } =>
  z.toJSONSchema(view, { io: 'output', target: 'draft-2020-12', unrepresentable: 'any' }) as Node
/** For readers: fields are added, and who checks must not refuse them. */
function open(shape: Node): object {
  const isClosing = (key: string): boolean => key === 'additionalProperties' || key === '$schema'
  return JSON.parse(JSON.stringify(shape), (key, value) => (isClosing(key) ? undefined : value))
}

const printedBy = '<!-- Printed by `npm run docs`; do not edit. -->'

/** File name -> content, for everything that is printed. */
export const pages: Record<string, string> = {
  'configuration.md': configurationPage(),
  'configuration.schema.json': formatted(configurationSchema()),
  'errors.md': errorsPage(),
  'events.md': eventsPage(),
  'events.schema.json': schemaFile('events', {
    title: 'What Fleetgate publishes: an event, or a presence',
    anyOf: [open(shapeOf(fleetEvent)), open(shapeOf(presence))],
  }),
  'json.md': jsonPage(),
  'metrics.md': metricsPage(),
  'openapi.json': formatted(openApiOf(routes)),
  'mqtt-behaviour.md': behaviourPage(),
}

function schemaFile(name: string, content: object): string {
  return formatted({ $id: `urn:fleetgate:schema:${name}`, ...content })
}

function formatted(document: object): string {
  // Lists of plain values on one line where they fit, as the formatter of this repository wants them.
  const text = JSON.stringify(document, null, 2).replaceAll(/\[[^[\]{}]*\]/g, (list, at: number, whole: string) => {
    const line = list
      .replaceAll(/\s*\n\s*/g, ' ')
      .replace('[ ', '[')
      .replace(' ]', ']')
    return at - whole.lastIndexOf('\n', at) + line.length > 120 ? list : line
  })
  return `${text}\n`
}

function errorsPage(): string {
  const row = (code: ProblemCode): string => {
    const { status, title } = problems[code]
    return `| \`${code}\` | ${status} | ${title} | ${advice[code].replaceAll('|', '\\|')} |`
  }
  return `${printedBy}
# Errors

Every refusal has a code. It is stable: scripts, alerts and this page know it by name, while sentences may change.
EST answers \`code: sentence (request id, denial id)\` as plain text, the admin API an RFC 9457 problem of type
\`${problemType('device_revoked')}\` and the like, MQTT a CONNACK code or a closed connection, and the log has the code as \`reason\`.
With a denial id, from a log line, a reason string of MQTT 5 or an EST answer, \`npx fleetgate explain ID\` says why, and what lets it pass.
The status is what HTTP answers; for refusals that only MQTT knows it is the nearest of the kind.

| code | status | what it means | what to do |
|---|---|---|---|
${(Object.keys(problems) as ProblemCode[]).map(row).join('\n')}

A start that fails with one of these ends with exit code 2, any other failure with 1:
${[...setUpProblems].map((code) => `\`${code}\``).join(', ')}.
`
}

function metricsPage(): string {
  const table = (rows: Record<string, MetricRow>): string => {
    const lines = Object.entries(rows).map(([name, { type, help, labels }]) => {
      const labelled = labels.length === 0 ? '' : labels.map((label) => `\`${label}\``).join(', ')
      return `| \`${name}\` | ${type} | ${labelled} | ${help} |`
    })
    return ['| metric | type | labels | meaning |', '|---|---|---|---|', ...lines].join('\n')
  }
  return `${printedBy}
# Metrics and probes

Off unless the configuration says where: \`broker.metrics\` and \`enroll.metrics\`, 127.0.0.1:9464 and 127.0.0.1:9465 by custom. It is plain HTTP without
access control, so listen on loopback or on a network of your own: there is no device, no topic and no address in it, but the size of the fleet is.

- \`/metrics\`: the tables below in the text format of Prometheus, and Node's own (\`process_\`, \`nodejs_\`).
- \`/livez\`: 200 while the process answers. Restart what does not.
- \`/readyz\`: 200, or 503 with a line for each part: the certificate of the service is valid, its store takes writes, and, of a broker, it knows
  who is revoked (\`broker.stale.afterMs\`). It is looked at once a second at most.

Counters begin with the process. Values of labels are codes of [errors.md](errors.md), stages of denials, states of
verification, or names of the configuration.

## Broker

${table(brokerMetrics)}

## Enroll

${table(enrollMetrics)}
`
}

function configurationPage(): string {
  return `${printedBy}
# Configuration

\`fleetgate up --config fleetgate.yaml\`. Every key has a default, so an empty file, or none, is a complete configuration.
A key may also come from the environment, which goes over the file; flags go over both. The variable is \`FLEETGATE_\` and the
path in capitals, \`__\` between levels, \`_\` between words; a list is parted by commas. An unknown key or a value out of range stops the start
with file, line and key, and exit code 2. [configuration.schema.json](configuration.schema.json) is the same as JSON Schema, for editors.

\`\`\`yaml
# fleetgate.yaml
data: /var/lib/fleetgate
names: [gateway.example, 192.0.2.10]
keys: { passphraseFile: /etc/fleetgate/passphrase }
profiles:
  sensor: { validityDays: 30 }
  camera: { validityDays: 7, organization: Example }
labels:
  cameras: { profile: camera }
broker: { listen: "0.0.0.0:8883", maxPacketBytes: 65536 }
\`\`\`

| key | variable | default | range | meaning |
|---|---|---|---|---|
${rows(schema, []).join('\n')}
`
}

function rows(node: Node, path: string[]): string[] {
  if (node.properties) return Object.entries(node.properties).flatMap(([key, child]) => rows(child, [...path, key]))
  const open = typeof node.additionalProperties === 'object' ? node.additionalProperties : undefined
  const own = `| \`${path.join('.')}\` | ${variableOf(path)} | ${defaultOf(node)} | ${rangeOf(node)} | ${node.description ?? ''} |`
  if (node.items?.properties) return [own, ...rows(node.items, [...path.slice(0, -1), `${path.at(-1)}[]`])]
  return [own, ...(open ? rows(open, [...path, 'NAME']) : [])]
}

function variableOf(path: string[]): string {
  // Keys that the operator chooses have no variable: capitals could not tell them apart. Nor have lists of objects.
  const isChosen = path[0] === 'profiles' || path[0] === 'labels' || path[2] === 'sites'
  if (isChosen || /^(listeners|trust)\b/.test(path[1] ?? '')) return 'file only'
  return `\`FLEETGATE_${path.map((key) => key.replaceAll(/[A-Z]/g, '_$&').toUpperCase()).join('__')}\``
}

function defaultOf({ default: value }: Node): string {
  return value === undefined ? 'none' : `\`${JSON.stringify(value).replaceAll('"', '')}\``
}

function rangeOf({ type, enum: values, minimum, maximum, items, pattern, default: value }: Node): string {
  if (values) return values.join(', ')
  if (pattern && /:\d+$/.test(String(value))) return 'host:port'
  if (type === 'object') return 'an object for each NAME'
  if (type !== 'integer') return items ? `list of ${items.enum?.join(', ') ?? items.type}` : (type ?? '')
  // zod writes the largest exact integer where no bound was given.
  const bounded = maximum !== undefined && maximum < Number.MAX_SAFE_INTEGER
  return bounded ? `${minimum} to ${maximum}` : `${minimum} or more`
}

function jsonPage(): string {
  const shapes: [string, z.ZodType, string][] = [
    ['device', deviceView, '`device show`, `device create`; `device ls` gives `{ "items": [device, …] }`'],
    ['allowance', allowanceView, '`device allow ls`, as `{ "items": [allowance, …] }`'],
    ['token', tokenView, '`token create`'],
    [
      'late renewal',
      lateRenewalView,
      '`enroll allow-late`, `--withdraw`; `--list` gives `{ "items": [late renewal, …] }`',
    ],
    [
      'approval',
      approvalView,
      '`enroll approvals show`, `approve`, `deny`; `enroll approvals ls` gives `{ "items": [approval, …] }`',
    ],
    ['certificate', certificateView, '`cert show`; `cert ls` gives `{ "items": [certificate, …] }`, without `pem`'],
    ['receipt', revocationReceipt, '`device revoke`'],
    ['theft receipt', theftReceipt, '`device stolen`'],
    ['certificate receipt', certificateReceipt, '`cert revoke` of a certificate of a device'],
    ['credential receipt', credentialReceipt, '`cert revoke` of a certificate of an operator or a broker'],
    ['incident', incidentView, '`incident show`, `incident close`; `incident ls` gives `{ "items": [incident, …] }`'],
    [
      'bulk receipt',
      bulkReceipt,
      '`device revoke|disable|enable|stolen` with a selection, which adds `verb`, `selected` and how many were `done`, `already` so and `refused`',
    ],
    ['hold receipt', holdReceipt, '`device disable`, `device enable`'],
    [
      'session',
      sessionView,
      'as `{ "items": [session, …], "unheard": [{ "broker", "why" }, …] }` by `session ls` and `session show`, and as `sessions` beside `devices` and `unheard` by `device revoke|disable|enable|stolen --dry-run`; `why` is `not_connected`, `not_asked` (of a version that does not know the question) or `no_answer`',
    ],
    ['kick receipt', kickReceipt, '`session kick`'],
    ['revocation list', crlView, '`crl show`; `crl ls` gives `{ "items": [revocation list, …] }`'],
    ['publish receipt', publishReceipt, '`crl publish`'],
    ['policy', policyView, '`policy show`, `policy apply`'],
    ['denial', denialView, '`explain`; `denial ls` gives `{ "items": [denial, …], "unheard": [broker, …] }`'],
    [
      'audit entry',
      auditView,
      '`audit tail`, one object a line, and `audit show`, as `items`; `details` differ by action',
    ],
    ['status', statusView, '`status`'],
  ]
  const section = ([name, view, given]: (typeof shapes)[number]): string => `## ${name}
Given by ${given}.

| field | type | |
|---|---|---|
${fields(shapeOf(view), '').join('\n')}
`
  return `${printedBy}
# JSON output

Every command takes \`-o json\` and prints one JSON document on standard output, indented by two; \`audit tail\` prints one object a line. The admin
API answers with the same shapes. Fields are added, never renamed or given another meaning; one that does not apply is left out. Times are
ISO 8601 in UTC. A failure prints nothing on standard output: standard error has
\`{ "error": { "code", "detail" } }\`, and the exit code is 1, 2 or 3.
\`enroll\` gives \`{ device, folder, certificate, expires }\`, \`renew\` the same with \`due\` and \`renewed\`, \`device allow\` gives \`{ added, known }\`, \`device allow rm\` \`{ removed, unknown }\`.
\`broker ls\` gives the list of \`status\` as \`{ "items": [ … ] }\`, \`policy check\` gives \`{ ok, file, statements, faults }\`, \`demo\` gives \`{ ok, steps: [{ name, title, ok, detail, ms, measured }] }\`.

${shapes.map(section).join('\n')}`
}

function fields(node: Node & { required?: string[] }, prefix: string): string[] {
  return Object.entries(node.properties ?? {}).flatMap(([name, child]) => {
    const path = `${prefix}${name}`
    const inner = child.items?.properties ? fields(child.items, `${path}[].`) : fields(child, `${path}.`)
    const type = child.enum
      ? child.enum.join(', ')
      : child.items
        ? `list of ${child.items.type}`
        : (child.type ?? 'any')
    const notes = [node.required?.includes(name) ? '' : 'may be missing', child.description ?? ''].filter(
      (note) => note !== '',
    )
    // A policy document has a page of its own in the README.
    return [`| \`${path}\` | ${type} | ${notes.join('; ')} |`, ...(name === 'document' ? [] : inner)]
  })
}

function eventsPage(): string {
  const examples = JSON.parse(readFileSync(join(import.meta.dirname, 'events', 'examples.json'), 'utf8'))
  const printed = (example: object): string =>
    `{\n${Object.entries(example)
      .map(([name, value]) => `  ${JSON.stringify(name)}: ${JSON.stringify(value)}`)
      .join(',\n')}\n}`
  const table = (view: z.ZodType): string => `| field | type | |
|---|---|---|
${fields(shapeOf(view), '').join('\n')}`
  return `${printedBy}
# Presence and events

What the broker knows, as MQTT messages: of each device whether it is there, retained, and events as they happen, with the facts of its certificate. Applications
need no other interface for it.

| topic | |
|---|---|
| \`$fleetgate/devices/ID/presence\` | retained: how things stand with one device |
| \`$fleetgate/events/TYPE\` | what has just happened, each type on its own topic |

## Who gets them

Nobody, until a policy says so. A statement opens them where its filter begins literally with \`$fleetgate/devices/\` or \`$fleetgate/events/\`; \`#\` stands for nothing that
begins with \`$\`. Nobody but the broker publishes there. Add this to \`policy.yaml\`, for what was enrolled with the profile \`service\`:

\`\`\`yaml
# policy.yaml
policies:
  - name: watch-the-fleet
    match: { profile: service }
    allow:
      subscribe: ["$fleetgate/devices/+/presence", "$fleetgate/events/#"]
\`\`\`

\`"$fleetgate/devices/\${device.id}/presence"\` would let each device read its own. Then, with the key and certificate of such a service
(enrolled as in the [README](../README.md#enroll-a-device), with \`--profile service\`):

<!-- run by test/interop/events.test.ts: watch -->
\`\`\`sh
npx fleetgate policy apply policy.yaml
mosquitto_sub --cafile data/root.crt --cert app-1.crt --key app-1.key -h localhost -p 8883 -i app-1 -q 1 -t '$fleetgate/devices/+/presence' -t '$fleetgate/events/#'
\`\`\`

\`fleetgate\` reads none of these messages: it speaks the admin API, where \`fleetgate events tail\` follows the audit log, and \`fleetgate denial ls\` has what was refused lately.

## Presence

- A device is connected while one of its client ids is. \`since\` is when that began, or ended; \`reason\` says why it ended.
- A device that has never been connected to this broker has none; nor has one that the registry does not have any more.
- \`held\` and \`revoked\` are what the registry says of a device that has a presence. It stays \`revoked\`, so that who comes later sees why the device is silent.
- It tells how things stand when its turn comes: what changes faster than it can be written is told once, as it is then.
- After a crash of the broker whoever was there is \`disconnected\` with the reason \`broker_restarted\` before anybody can connect.

## Events

| type | |
|---|---|
${eventTypes.map((type) => `| \`${type}\` | ${eventMeanings[type]} |`).join('\n')}

- They are published at QoS 1. Who has a session that is kept gets what happened meanwhile, up to \`broker.maxQueuedMessages\`. An event is lost where the broker crashes
  between the fact and the write: events are for reacting, [the audit log](json.md) is for proof.
- What the registry says (\`enrolled\`, \`renewed\`, \`held\`, \`enabled\`, \`revoked\`, and \`alert\` of the kind \`key_reused\`) each broker tells that hears of it; the rest is told by the broker where it happened.
- Of each type at most \`broker.events.maxPerSecond\`. What comes beyond is told at the end of the second as one event with \`count\` and no device; presence says of each
  device how it stands, however many there are. The same refusal of the same client again is told once in a minute, with \`count\`.
- \`broker.events.enabled: false\` turns presence and events off, and removes what was retained ([configuration.md](configuration.md)).

## The message

JSON in UTF-8. On MQTT 5 it has the content type \`application/json\` and user properties: \`event-id\`, \`device-id\` and \`certificate-fingerprint\`, as far as there are such. Fields
are added, never renamed or given another meaning. [events.schema.json](events.schema.json) is the JSON Schema of both. With \`broker.events.certificatePem: true\` the
certificate itself is there too, as \`pem\`: URL-encoded, like the header X-SSL-Client-Cert of a proxy.

### An event

${table(fleetEvent)}

### A presence

${table(presence)}

## Examples

From a broker with test certificates.

${[...examples.events, ...examples.presences]
  .map((example: { type?: string; scope?: string; status?: string }) => {
    const { type, scope, status } = example
    const name = type === undefined ? `presence, ${status}` : scope === undefined ? type : `${type}, of a ${scope}`
    return `### ${name}\n\n\`\`\`json\n${printed(example)}\n\`\`\`\n`
  })
  .join('\n')}`
}

function behaviourPage(): string {
  const doneOf = ({ for: whom, shown, void: asksNothing, differs }: Statement): string => {
    if (differs !== undefined) return `on purpose not: ${differs}`
    if (asksNothing !== undefined) return `does not arise: ${asksNothing}`
    if (whom === 'client') return shown.length > 0 ? 'n/a; checked' : 'n/a'
    return 'yes'
  }
  const row = (statement: Statement): string => {
    const { number, for: whom, gist, shown, note } = statement
    const names = shown.map((name) =>
      name
        .replaceAll(/\$\{.*?\}/g, '*')
        .replaceAll('|', '\\|')
        .replaceAll('<', '\\<'),
    )
    return `| ${number} | ${whom} | ${gist}${note === undefined ? '' : ` (${note})`} | ${doneOf(statement)} | ${names.join('<br>')} |`
  }
  const section = ({ standard, statements }: Standard): string => `## ${standard}

| MQTT- | for | in our words | done | shown by |
|---|---|---|---|---|
${statements.map(row).join('\n')}
`
  return `${printedBy}
# MQTT, statement by statement

What the broker does with each numbered statement of the Standards (their appendix B), and the test that shows it. *shown by* names a test by its file
under \`test/\` and its title, or a vector or dialogue of \`test/vectors/mqtt\`: octets in, octets or a close out, played at a real mutual-TLS socket, single packets
at the codec too. \`*\` in a title stands for more than one: it runs for each version. What binds clients alone is *n/a* for a server, and *checked* where a
client that breaks it is refused.

## Where there is a choice, and where we differ
- **Client ids** belong to the certificate: the device id, or it with \`:\` and a suffix. Any other is refused. An empty one is replaced by the device id with a suffix of ours.
- **MQTT 3.1** is spoken as 3.1.1, but for what it says otherwise: protocol name \`MQIsdp\`, client ids of 1 to 23 characters, no session present flag, DUP on PUBREL, SUBSCRIBE and
  UNSUBSCRIBE, and user name and password may be missing in spite of their flags. A subscription that is refused is answered with 0x80, which 3.1 has no word for.
- **A topic filter that is none** ends the connection in every version (5: 0x8F). One that the policy refuses is answered in the SUBACK: 0x80, or 0x87 in version 5.
- **A PUBLISH that the policy refuses** goes nowhere; version 5 hears 0x87, older versions get a plain acknowledgement, since they have no other and would repeat it. With \`onDeny: disconnect\` the connection ends.
- **A PUBLISH above the rate of its policy**: QoS 0 is dropped, version 5 hears 0x97. Older versions have no refusal, and to acknowledge what was dropped
  would lose it without a word: their messages of QoS 1 and 2 wait for their turn, 100 at most, and then the connection is read from more slowly.
- **Keep-alive**: where the policy has a range, version 5 is told another value. Older clients cannot be told: one that asks for more than the largest, or for
  none, is let in and ended when it was silent for one and a half times the largest; one that asks for less than the smallest is taken at its word.
- **Maximum QoS and Retain Available** are what the policy gives a client at any topic; version 5 is disconnected when it does not keep to them (0x9B, 0x9A).
  What another topic would take is refused like any PUBLISH.
- **Shared subscriptions** (\`$share/group/filter\`) are for clients of 3.1 and 3.1.1 too. Other topics that begin with \`$\`
  are closed, but for what the broker itself publishes, where a policy opens it; to that nobody else publishes.
- **In quarantine**, where a listener has one, a client can subscribe to its status at QoS 0 and publish to one topic. Its session ends with its connection, a will is
  taken and never published, messages of QoS 2 from older clients are answered and go nowhere ([decision 8](decisions/0008-one-verdict-and-a-quarantine-of-its-own.md)).
- **AUTH**: devices are known by their certificate. A CONNECT with an authentication method is refused with 0x8C; any other AUTH is a protocol error, 0x82.
- **Strings** with control characters or non-characters are refused, which the Standards leave to us. A length with idle octets is refused in version 5 alone.
- **Bounds**: topics of 1,024 characters and 100 levels, 100 filters for a connection, and for each device queued and retained messages and their octets
  ([configuration.md](configuration.md)). What is over them is delivered to who is there, and not kept; the log says so.
- **Sessions** are kept for \`broker.sessionExpiryMs\` at most; version 5 hears so in CONNACK. Messages of QoS 0 are not kept for an absent session.
- **Order** is kept among messages of QoS 1 and 2 and among those of QoS 0, not between the two.
- **What is not acknowledged** is sent again once, when the session goes on at the next connection: 5 demands it so, 3.1.1 allows it.

${Object.values(standards).map(section).join('\n')}`
}

if (import.meta.main) {
  for (const [name, text] of Object.entries(pages)) writeFileSync(join(import.meta.dirname, name), text)
}
