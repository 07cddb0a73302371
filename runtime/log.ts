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

// Of what JSON leaves as it is: controls, and what hides text, turns it or breaks its line. A topic or a path may hold any of it.
const unseen = /[\u007f-\u009f\u2028\u2029\p{Cf}]/gu

/** The same line to who parses it, and nothing that a terminal obeys to who looks at it. */
const escaped = (line: string): string =>
  line.replaceAll(unseen, (found) =>
    found.split('').reduce((text, unit) => `${text}\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`, ''),
  )

const codePoint = (code: number): string => `<U+${code.toString(16).toUpperCase().padStart(4, '0')}>`

// As JSON writes them. Of a stack the terminal is given the text, and lines and tabs are what it is made of; no other escape of a pair
// that begins with a backslash is to be taken for one of these.
const escapes = /\\(?:u00([01][0-9a-f])|([bfr])|.)/g
const lettered: Record<string, number> = { b: 0x08, f: 0x0c, r: 0x0d }

/** For a terminal itself: whoever makes text of the line would take an escape back. */
const visible = (line: string): string =>
  line
    .replaceAll(unseen, (found) => codePoint(found.codePointAt(0)!))
    .replaceAll(escapes, (found, hex?: string, letter?: string) =>
      hex !== undefined
        ? codePoint(Number.parseInt(hex, 16))
        : letter === undefined
          ? found
          : codePoint(lettered[letter]!),
    )

let second = Number.NaN
let begun = ''

/** The member of a line; what all times of a second begin with is written once, which takes ten times as long. */
function timestamp(): string {
  const now = Date.now()
  const ms = now % 1_000
  if (now - ms !== second) {
    second = now - ms
    begun = new Date(second).toISOString().slice(0, -'000Z'.length)
  }
  return `,"time":"${begun}${String(ms).padStart(3, '0')}Z"`
}

/**
 * Events with fields: `log.warn({ event: 'connection.refused', reason, deviceId }, 'connection refused')`.
 * Lines of JSON on standard error; coloured text where that is a terminal, because a person reads it there.
 *
 * @param service stands in each line
 */
export function createLog(service: string, level: string): Log {
  const safe = process.stderr.isTTY ? visible : escaped
  const options: pino.LoggerOptions = {
    level,
    base: { service },
    timestamp,
    // pino's own redaction looks down to a depth that has to be named, and into every field of every line: 30 microseconds.
    hooks: { streamWrite: (line) => safe(withoutSecrets(line)) },
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
