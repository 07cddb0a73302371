import { configurationSchema } from '../contract/configuration-schema.ts'
import { type Node, printedBy } from './printing.ts'

export function configurationPage(): string {
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
${rows(configurationSchema() as Node, []).join('\n')}
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
