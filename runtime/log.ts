import { pino } from 'pino'
import pretty from 'pino-pretty'

export type Log = pino.Logger

/** Never written, at the top of a line's fields or up to two levels down (`err.context.token`). */
const secrets = ['password', 'token', 'authorization', 'passphrase', 'privateKey', 'challengePassword']

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
    redact: { paths: secrets.flatMap((name) => [name, `*.${name}`, `*.*.${name}`]), censor: '[redacted]' },
  }
  if (process.stderr.isTTY) {
    return pino(
      options,
      pretty({ destination: 2, sync: true, ignore: 'pid,hostname,service', messageFormat: '{service}: {msg}' }),
    )
  }
  return pino(options, pino.destination({ dest: 2, sync: true }))
}
