import { EventEmitter, once } from 'node:events'
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { AdminClient } from '../../cli/admin-client.ts'
import { type Gateway, startGateway } from '../../cli/supervisor.ts'
import { EstClient, fetchTrust } from '../../device-sim/est-client.ts'
import type { FleetServer } from '../../device-sim/fleet.ts'
import { loadConfig } from '../../runtime/config.ts'
import { compileCache } from './stub-io.ts'

/** A whole gateway in its own processes, on free loopback ports, in a folder that goes with it. */
export class LiveGateway implements AsyncDisposable {
  readonly gateway: Gateway
  readonly admin: AdminClient
  readonly server: FleetServer
  /** `ready` with the name of each child that comes back. */
  readonly #events: EventEmitter
  readonly #folder: string

  private constructor(folder: string, events: EventEmitter, gateway: Gateway, admin: AdminClient, est: EstClient) {
    this.#events = events
    this.#folder = folder
    this.gateway = gateway
    this.admin = admin
    this.server = {
      est,
      mqtts: gateway.endpoints.mqtts,
      operator: {
        createToken: async (deviceId, profile) => (await admin.createToken({ deviceId, profile })).token,
        async revoke(deviceId) {
          const { inForce, brokers } = await admin.revokeDevice(deviceId, 'keyCompromise', 60_000)
          return { inForce, confirmedMs: brokers[0]?.confirmedMs }
        },
      },
    }
  }

  /**
   * @param yaml    the configuration, but for its addresses
   * @param dataDir one that there is, and that stays
   */
  static async start(yaml = '', dataDir?: string): Promise<LiveGateway> {
    const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
    const configFile = join(folder, 'fleetgate.yaml')
    writeFileSync(configFile, yaml)
    const events = new EventEmitter()
    const gateway = await startGateway({
      config: loadConfig({
        file: configFile,
        env: {},
        flags: { 'enroll.est': '127.0.0.1:0', 'broker.listen': '127.0.0.1:0' },
      }),
      configFile,
      dataDir: dataDir ?? join(folder, 'data'),
      ports: 'auto',
      env: compileCache,
      output: openSync(join(folder, 'log'), 'a'),
      backOff: { firstMs: 20, maxMs: 200, steadyMs: 1_000 },
      notify: (event) => events.emit(event.kind, event.name),
    })
    const { est, rootFingerprint } = gateway.endpoints
    const trusted = new EstClient(est, await fetchTrust(est, rootFingerprint))
    return new LiveGateway(folder, events, gateway, new AdminClient(gateway.endpoints, folder), trusted)
  }

  get rootPem(): string {
    return readFileSync(this.gateway.endpoints.rootCertificate, 'utf8')
  }

  /** SIGKILL; resolves when the supervisor has brought the process back. */
  async crash(name: 'enroll' | 'broker'): Promise<void> {
    const back = (async () => {
      for (;;) if ((await once(this.#events, 'ready'))[0] === name) return
    })()
    process.kill(this.gateway.pids[name]!, 'SIGKILL')
    await back
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.admin[Symbol.dispose]()
    await this.gateway.stop()
    rmSync(this.#folder, { recursive: true, force: true })
  }
}
