import { pino } from 'pino'
import pretty from 'pino-pretty'

export type Log = pino.Logger

const maxWaitingBytes = 1_048_576

/** Fields that are never written, wherever in a line they are (`err.context.token`). */
const secrets = ['password', 'token', 'authorization', 'passphrase', 'privateKey', 'challengePassword']
const isSecret = new Set(secrets)
// In a text that a field holds the quotes are escaped, so this finds names of fields alone.
const namesSecret = new RegExp(`"(?:${secrets.join('|')})":`)

/** @param line as it would be written, whoever put what into it: fields, a child's bindings, an error's context */
function withoutSecrets(line: string): string {
  if (!namesSecret.test(line)) return line
  const censored = JSON.parse(line, (name, value) => (isSecret.has(name) ? '[redacted]' : value))
  return `${JSON.stringify(censored)}\n`
}

/**
 * Events with fields: `log.warn({ event: 'connection.refused', reason, deviceId }, 'connection refused')`.
 * Lines of JSON on standard error; coloured text where that is a terminal, because a person reads it there.
 *
 * @param service stands in each line
 */
export function createLog(service: string, level: string): Log {
  const options: pino.LoggerOptions = {
    level,
    base: { service },
    timestamp: pino.stdTimeFunctions.isoTime,
    // pino's own redaction looks down to a depth that has to be named, and into every field of every line: 30 microseconds.
    hooks: { streamWrite: withoutSecrets },
  }
  if (process.stderr.isTTY) {
    return pino(
      options,
      pretty({ destination: 2, sync: true, ignore: 'pid,hostname,service', messageFormat: '{service}: {msg}' }),
    )
  }
  const destination = pino.destination({ dest: 2, sync: true, maxLength: maxWaitingBytes })
  // A log on a disk that is full is no reason to stop serving: its lines wait for room, and those beyond that are lost.
  destination.on('error', () => undefined)
  return pino(options, destination)
}
