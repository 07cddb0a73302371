import { brokerMetrics, enrollMetrics, type MetricRow } from '../contract/metrics.ts'
import { printedBy } from './printing.ts'

export function metricsPage(): string {
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
