import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { printedBy } from './printing.ts'

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

export function behaviourPage(): string {
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
