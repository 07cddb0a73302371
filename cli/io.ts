/** What a command may touch of the process it runs in; tests bring their own. */
export type Io = {
  out(text: string): void
  err(text: string): void
  /** Standard error is a terminal: progress is worth drawing. */
  isTerminal: boolean
  /** Standard output is a terminal that wants colours. */
  colour: boolean
  env: NodeJS.ProcessEnv
  /** Aborts at the first SIGINT or SIGTERM from the call on; a command that does not call it is ended by them as usual. */
  untilSignal(): AbortSignal
}

export const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })

/** `FLEETGATE_DEBUG=1` shows where an error comes from. It is for the command line alone and no setting of a service. */
const debugName = 'FLEETGATE_DEBUG'

export const isDebugging = (env: NodeJS.ProcessEnv): boolean => env[debugName] === '1'

export function settingsOf(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const { [debugName]: _, ...settings } = env
  return settings
}
