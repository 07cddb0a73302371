import { setTimeout as delay } from 'node:timers/promises'
import type { Log } from '../runtime/log.ts'
import { ConnectRefused, Device } from './device.ts'
import type { EstClient } from './est-client.ts'
import { certificateOf, type Identity, renewIdentity } from './identity.ts'

type Options = {
  id: string
  mqtts: string
  est: EstClient
  identity: Identity
  /** Between two readings. */
  intervalMs: number
  /** Keeps a renewed identity; it is in use only when this has returned. */
  store: (identity: Identity) => void
  log: Log
  clock?: () => Date
  random?: () => number
}

// A timer longer than 2^31 ms fires at once, so a far day is approached in steps.
const longestWaitMs = 86_400_000
const firstRetryMs = 1_000
const lastConnectRetryMs = 30_000
const lastRenewalRetryMs = 3_600_000

/** Reports, answers commands and renews its certificate by itself, until it is disposed of. */
export async function runDevice(options: Options): Promise<AsyncDisposable & { endpoints: Record<string, string> }> {
  const { id, mqtts, est, intervalMs, store, log, clock = () => new Date(), random = Math.random } = options
  const device = new Device({ id, mqtts, rootPem: est.trust.rootPem, identity: options.identity, onCommand: answer })
  const stop = new AbortController()
  device.on('connected', () => log.info({ event: 'device.connected', deviceId: id }, 'connected'))
  device.on('closed', () => log.info({ event: 'device.disconnected', deviceId: id }, 'disconnected'))
  const until = (ms: number): Promise<void> => delay(ms, undefined, { signal: stop.signal })
  await connectPatiently()

  async function connectPatiently(): Promise<void> {
    for (let retryMs = firstRetryMs; ; retryMs = Math.min(retryMs * 2, lastConnectRetryMs)) {
      try {
        return await device.connect()
      } catch (error) {
        if (error instanceof ConnectRefused) throw error
        log.warn({ event: 'connection.failed', deviceId: id, err: error, retryMs }, 'connection failed')
        await until(retryMs)
      }
    }
  }

  async function report(): Promise<void> {
    for (let reading = 0; ; reading++) {
      const value = {
        at: clock().toISOString(),
        reading,
        celsius: Math.round((20 + 3 * Math.sin(reading / 10)) * 100) / 100,
      }
      // Offline readings are not waited for: they go out, in order, when the connection is back.
      device.publish(`devices/${id}/telemetry/temperature`, JSON.stringify(value)).catch(() => undefined)
      await until(intervalMs)
    }
  }

  async function keepRenewed(): Promise<void> {
    let identity = options.identity
    for (;;) {
      const at = renewalTime(identity.certificatePem, random())
      for (let left = at - clock().getTime(); left > 0; left = at - clock().getTime())
        await until(Math.min(left, longestWaitMs))
      for (let retryMs = firstRetryMs; ; retryMs = Math.min(retryMs * 2, lastRenewalRetryMs)) {
        try {
          identity = await renewIdentity(est, identity)
          break
        } catch (error) {
          log.warn({ event: 'renewal.failed', deviceId: id, err: error, retryMs }, 'renewal failed')
          await until(retryMs)
        }
      }
      store(identity)
      await device.useIdentity(identity)
      log.info(
        { event: 'device.renewed', deviceId: id, notAfter: certificateOf(identity.certificatePem).notAfter },
        'renewed',
      )
    }
  }

  const refused = new Promise<never>((_, reject) => device.once('refused', reject))
  const work = Promise.race([report(), keepRenewed(), refused])
  work.catch((error: Error) => {
    if (stop.signal.aborted) return
    log.error({ event: 'device.refused', deviceId: id, reason: error.message }, 'refused')
    process.exit(1)
  })
  return {
    endpoints: { mqtts },
    async [Symbol.asyncDispose]() {
      stop.abort()
      await device.disconnect()
    },
  }
}

/**
 * Two thirds into the certificate's life, and up to a twentieth of it later, so that a fleet enrolled in one go does not
 * come back in one go.
 *
 * @param random 0 to 1
 * @returns milliseconds since the epoch
 */
export function renewalTime(certificatePem: string, random: number): number {
  const { notBefore, notAfter } = certificateOf(certificatePem)
  const life = notAfter.getTime() - notBefore.getTime()
  return notBefore.getTime() + life * (2 / 3 + random / 20)
}

const answer = (name: string, payload: string): string =>
  JSON.stringify({ command: name.slice(0, 100), request: payload.slice(0, 1_000), result: 'done' })
