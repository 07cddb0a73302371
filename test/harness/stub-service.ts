/**
 * Stands in for enroll and broker under the supervisor: tells what it was started with and does as its environment says.
 *
 * STUB_<NAME>: `fail` tells a failed start, `mute` ends without a word, `hang` ignores SIGTERM, `unclean` ends with 1.
 */
import { appendFileSync } from 'node:fs'
import { basename } from 'node:path'
import { parseArgs } from 'node:util'

const { values } = parseArgs({ options: { config: { type: 'string' }, data: { type: 'string' } } })
const name = basename(process.argv[1] ?? '').startsWith('stub-enroll') ? 'enroll' : 'broker'
const behaviour = process.env[`STUB_${name.toUpperCase()}`]
const note = (what: string): void => appendFileSync(process.env.STUB_NOTES!, `${name} ${what}\n`)

/** Port 0 becomes a port that says which start gave it, so that a test sees whether a later start keeps it. */
const given = (variable: string): string => {
  const address = process.env[variable] ?? ''
  return address.replace(/:0$/, `:${process.pid % 50_000}`)
}

const endpoints: Record<string, string> =
  name === 'enroll'
    ? {
        est: `https://${given('FLEETGATE_ENROLL__EST')}`,
        admin: `https://${given('FLEETGATE_ENROLL__ADMIN')}`,
        feed: given('FLEETGATE_ENROLL__FEED'),
        rootFingerprint: 'ab'.repeat(32),
        rootCertificate: `${values.data}/root.crt`,
        operatorCertificate: `${values.data}/operator/operator.crt`,
        operatorKey: `${values.data}/operator/operator.key`,
      }
    : { mqtts: `mqtts://${given('FLEETGATE_BROKER__LISTEN')}` }

note(
  `started ${JSON.stringify({ ...endpoints, data: values.data, config: values.config, told: process.env.FLEETGATE_BROKER__FEED })}`,
)

if (behaviour === 'mute') process.exit(7)
if (behaviour === 'fail') {
  process.send?.({ kind: 'failed', code: 'port_in_use', message: 'port 8883 is in use' })
  process.exitCode = 2
  process.disconnect?.()
} else {
  process.on('SIGTERM', () => {
    note('asked to stop')
    if (behaviour === 'hang') return
    process.exit(behaviour === 'unclean' ? 1 : 0)
  })
  process.on('disconnect', () => process.exit(0))
  process.send?.({ kind: 'ready', endpoints })
}
