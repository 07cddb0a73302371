/** What a command may touch of the process it runs in; tests bring their own. */
export type Io = {
  out(text: string): void
  err(text: string): void
  /** Standard error is a terminal: progress is worth drawing. */
  isTerminal: boolean
  /** Standard output is a terminal that wants colours. */
  colour: boolean
  env: NodeJS.ProcessEnv
  /** A line typed unseen at a terminal, else the first line of standard input. */
  readSecret(question: string): Promise<string>
  /** A line typed at a terminal, else the first line of standard input; empty where there is none. */
  readLine(question: string): Promise<string>
  /**
   * Aborts, with its cause as a text, at the first SIGINT, SIGTERM or SIGHUP from the call on, or when nobody reads the
   * output any more; a command that does not call it is ended by them as usual.
   *
   * @param hurry called at the next signal after that, which asks to end at once; without it there is no hurrying
   */
  untilSignal(hurry?: () => void): AbortSignal
  /** From the call on a SIGHUP has this done, and ends nothing, unless it tells that the terminal is gone. */
  onHangUp(act: () => void): void
}

/** Ended by its caller before it had done what it was called for: a failure, and none of the gateway's. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted'

  /** @param where `while: ...` or `before: ...` */
  constructor(where: string, stop: AbortSignal) {
    const by = typeof stop.reason === 'string' ? ` by ${stop.reason}` : ''
    super(`interrupted${by} ${where}`)
  }
}

export const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })

/** `FLEETGATE_DEBUG=1` shows where an error comes from. It is for the command line alone and no setting of a service. */
const debugName = 'FLEETGATE_DEBUG'

export const isDebugging = (env: NodeJS.ProcessEnv): boolean => env[debugName] === '1'

/** Likewise: the passphrase of backups. */
export const backupPassphraseName = 'FLEETGATE_BACKUP_PASSPHRASE'

export function settingsOf(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const { [debugName]: _, [backupPassphraseName]: __, ...settings } = env
  return settings
}
