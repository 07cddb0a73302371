import { exitCodeOf, isFleetError } from './errors.ts'
import { createLog, type Log } from './log.ts'

/** What a started service tells: shown by a supervisor, written to `endpoints.json`. */
export type Ready = { kind: 'ready'; endpoints: Record<string, string> }
export type Failed = { kind: 'failed'; code: string; message: string }

const drainMs = 8_000

export type Service = AsyncDisposable & {
  endpoints: Record<string, string>
  /** Reads anew what can be changed while it runs, at SIGHUP; it does not throw. */
  reload?(): Promise<void>
}

/**
 * Starts a service, tells a supervisor (if there is one) that it is ready, and runs until SIGTERM, SIGINT or the
 * supervisor's end; then closes it and ends the process. SIGHUP reloads a service that can be, unless a terminal says it,
 * which then is gone. A start that fails is one sentence and an exit code.
 *
 * @param name  stands in each log line
 * @param start reads the configuration (and sets the log's level by it) and creates the service
 */
export async function runService(name: string, start: (log: Log) => Promise<Service>): Promise<void> {
  const log = createLog(name, 'info')
  const supervised = process.send !== undefined
  let stop!: (why: string) => void
  let stopping = false
  const stopped = new Promise<string>((resolve) => {
    stop = (why) => {
      resolve(why)
      if (stopping) return
      stopping = true
      // Counted from the wish to stop, so that a start which hangs is ended too.
      setTimeout(() => {
        log.error({ event: 'service.drainTimedOut' }, 'did not stop in time')
        process.exit(1)
      }, drainMs)
    }
  })
  process.on('SIGTERM', () => stop('SIGTERM'))
  // Under a supervisor a Ctrl-C, or the end of the terminal, reaches every process of the group; the supervisor alone decides
  // the order of stopping.
  let reload: Service['reload']
  for (const signal of ['SIGINT', 'SIGHUP'] as const) {
    process.on(signal, () => {
      if (signal === 'SIGHUP' && reload !== undefined && !process.stdin.isTTY) void reload()
      else if (!supervised) stop(signal)
    })
  }
  process.on('disconnect', () => stop('supervisor gone'))
  try {
    const service = await start(log)
    reload = service.reload
    tell({ kind: 'ready', endpoints: service.endpoints })
    log.info({ event: 'service.started', ...service.endpoints }, 'ready')
    const why = await stopped
    log.info({ event: 'service.stopping', reason: why }, 'stopping')
    await service[Symbol.asyncDispose]()
    log.info({ event: 'service.stopped' }, 'stopped')
    process.exit(0)
  } catch (error) {
    const known = isFleetError(error)
    // A supervisor shows the operator the one sentence; beside it a line of the log would only be noise.
    if (!known) log.error({ event: 'service.failed', err: error }, 'service failed')
    else if (!supervised) log.error({ event: 'service.failed', reason: error.code, ...error.context }, error.message)
    tell({ kind: 'failed', code: known ? error.code : 'internal', message: (error as Error).message })
    process.exitCode = exitCodeOf(error)
    setImmediate(() => process.exit())
  }
}

function tell(message: Ready | Failed): void {
  if (process.connected) process.send?.(message)
}
