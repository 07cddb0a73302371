import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { z } from 'zod'
import { eventMeanings, eventTypes, fleetEvent, presence } from '../contract/fleet-events.ts'
import { fields, formatted, open, printedBy, shapeOf } from './printing.ts'

export const eventsSchema = (): string =>
  formatted({
    $id: 'urn:fleetgate:schema:events',
    title: 'What Fleetgate publishes: an event, or a presence',
    anyOf: [open(shapeOf(fleetEvent)), open(shapeOf(presence))],
  })

export function eventsPage(): string {
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
