import { type ProblemCode, problems, problemType, setUpProblems } from '../contract/problems.ts'
import { advice } from './advice.ts'
import { printedBy } from './printing.ts'

export function errorsPage(): string {
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
