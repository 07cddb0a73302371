import { EventEmitter } from 'node:events'
import { Device, type DeviceOptions } from './device.ts'
import type { EstClient } from './est-client.ts'
import { enrollIdentity, type Identity } from './identity.ts'

/** What a simulated fleet cannot do itself: an operator's part. */
export type Operator = {
  /** @returns an enrollment token for a device that is created with this profile when there is none */
  createToken(deviceId: string, profile: string): Promise<string>
  /** Returns when every broker has confirmed. */
  revoke(deviceId: string): Promise<{ inForce: boolean; confirmedMs: number | undefined }>
}

export type FleetServer = { est: EstClient; mqtts: string; operator: Operator }

/** A device that reports until it is stopped, and remembers how often it lost its connection. */
export class Member {
  readonly device: Device
  losses = 0
  #timer: NodeJS.Timeout | undefined

  constructor(device: Device) {
    this.device = device
    device.on('closed', () => this.losses++)
  }

  get id(): string {
    return this.device.id
  }

  /** @param make the text of the n-th message */
  report(everyMs: number, topic: string, make: (n: number) => string): void {
    this.stopReporting()
    let n = 0
    // A message that is never acknowledged because the device was cut off is what some steps are about.
    const send = (): void => void this.device.publish(topic, make(n++)).catch(() => undefined)
    this.#timer = setInterval(send, everyMs)
    send()
  }

  stopReporting(): void {
    clearInterval(this.#timer)
  }
}

/** An application that hears all telemetry: what arrives is counted by device and offered to whoever waits. */
export class Listener extends EventEmitter<{ heard: [deviceId: string, rest: string, payload: string] }> {
  readonly device: Device
  readonly counts = new Map<string, number>()
  total = 0

  constructor(device: Device) {
    super()
    this.device = device
    this.setMaxListeners(0)
    device.on('message', (topic, payload) => {
      const [, id = '', , ...rest] = topic.split('/')
      this.total++
      this.counts.set(id, (this.counts.get(id) ?? 0) + 1)
      this.emit('heard', id, rest.join('/'), payload)
    })
  }

  count(id: string): number {
    return this.counts.get(id) ?? 0
  }

  /** @returns the payload of the first message from now on that `wanted` takes */
  hears(wanted: (id: string, rest: string, payload: string) => boolean): Promise<string> {
    return new Promise((resolve) => {
      const look = (id: string, rest: string, payload: string): void => {
        if (!wanted(id, rest, payload)) return
        this.off('heard', look)
        resolve(payload)
      }
      this.on('heard', look)
    })
  }
}

export async function enrolledDevice(
  server: FleetServer,
  id: string,
  profile: string,
  { over, ...more }: Pick<DeviceOptions, 'onCommand'> & { over?: AbortSignal } = {},
): Promise<Device> {
  const token = await server.operator.createToken(id, profile)
  const device = deviceWith(server, id, await enrollIdentity(server.est, id, token), more)
  // One that is still on its way when all is over would try to connect for ever.
  over?.throwIfAborted()
  over?.addEventListener('abort', () => device.drop(), { once: true })
  await device.connect()
  return device
}

export const deviceWith = (
  server: FleetServer,
  id: string,
  identity: Identity | undefined,
  more: Pick<DeviceOptions, 'onCommand' | 'clientId'> = {},
): Device => new Device({ id, mqtts: server.mqtts, rootPem: server.est.trust.rootPem, identity, ...more })
