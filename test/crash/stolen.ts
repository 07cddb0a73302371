/**
 * `device stolen`, and SIGKILL of the enrollment service, of the broker, or of both, at any moment of it: what was said stands,
 * what was not said is there as a whole or not at all, and the same request again brings all of it about.
 *
 *   npm run crash -- stolen [--rounds N] [--seed N]
 */
import assert from 'node:assert/strict'
import 'reflect-metadata'
import { readFileSync } from 'node:fs'
import { Agent, request } from 'node:https'
import { dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { X509Crl } from '@peculiar/x509'
import { connectAsync, type IClientOptions, type MqttClient } from 'mqtt'
import { type TheftReceipt, theftReceipt } from '../../contract/admin-api.ts'
import { EstError } from '../../device-sim/est-client.ts'
import { type Identity, identityOf } from '../../device-sim/identity.ts'
import { openDatabase } from '../../enroll/registry/database.ts'
import { Registry } from '../../enroll/registry/registry.ts'
import { createKeyAndCsr } from '../../pki/x509.ts'
import { isFleetError } from '../../runtime/errors.ts'
import { Inbox } from '../harness/broker.ts'
import { LiveGateway } from '../harness/live-gateway.ts'
import { randomOf } from '../harness/random.ts'
import { freePorts } from '../harness/stub-gateway.ts'
import { requireWholeChains } from '../suites/registry.ts'

const waitMs = 10_000
const patience = 400
const pauseMs = 25
const longestMs = 60

/**
 * Who is killed. The last two stop the broker first: enroll has committed and sent, and the broker is killed before it has read
 * that; or reads it when there is no enroll to hear that it is in force.
 */
const ways = ['enroll', 'broker', 'both', 'broker before it reads', 'enroll before it is answered'] as const
type Way = (typeof ways)[number]

type Victim = {
  id: string
  identity: Identity
  serial: string
  /** Ends when the broker, or its end, ends the session. */
  closed: Promise<unknown>
  unspentToken: string
}

const topicOf = (id: string, name: string): string => `devices/${id}/telemetry/${name}`
/** When its commit was on disk knows the process alone that made it. */
const withoutCommit = (session: TheftReceipt['sessions'][number]) => ({ ...session, sinceCommitMs: undefined })

export class StolenRun implements AsyncDisposable {
  readonly #live: LiveGateway
  readonly #status: string
  readonly #agent: Agent
  readonly #below: (limit: number) => number
  #service!: Identity
  /** How often each state was met. */
  readonly met = new Map<string, number>()

  private constructor(live: LiveGateway, status: string, seed: number) {
    this.#live = live
    this.#status = status
    this.#below = randomOf(seed)
    const { endpoints } = live.gateway
    this.#agent = new Agent({
      ca: live.rootPem,
      cert: readFileSync(endpoints.operatorCertificate!),
      key: readFileSync(endpoints.operatorKey!),
      servername: 'enroll.fleetgate.internal',
    })
  }

  static async start(seed: number): Promise<StolenRun> {
    const [port] = await freePorts(1)
    const status = `http://127.0.0.1:${port}`
    const live = await LiveGateway.start(`
profiles: { camera: { evidence: [token, approval] }, service: {} }
enroll:
  attemptsPerMinute: 100000
  approvals: { retryAfterMs: 1000, maxPendingPerAddress: 1000 }
  status: { listen: "127.0.0.1:${port}", url: "${status}", shards: 2 }
`)
    const run = new StolenRun(live, status, seed)
    run.#service = await run.#enroll('dashboard', 'service')
    const keeper = await run.#connect(await run.#enroll('keeper', 'camera'), 'keeper')
    await keeper.publishAsync(topicOf('keeper', 'last'), 'kept', { qos: 1, retain: true })
    keeper.end(true)
    return run
  }

  async round(way: Way, n: number): Promise<void> {
    const { id, serial, ...victim } = await this.#prepare(`van-${n}`)
    const key = `stolen-${id}-${'0'.repeat(8)}`
    const first = this.#say(id, key).catch(() => undefined)
    const brokerFell = await this.#strike(way, id)
    const answered = await first
    const isThere = await this.#requireWhole(id, serial)
    if (answered !== undefined) assert.ok(isThere, `${id} was acknowledged`)
    this.#count(`${way}: ${answered ? 'acknowledged' : isThere ? 'committed' : 'nothing'}`)

    const receipt = await this.#untilInForce(id, key)
    if (answered !== undefined) {
      assert.deepEqual([receipt.alreadyStolen, receipt.incident], [true, answered.incident])
      const told = answered.sessions.map(withoutCommit)
      const again = receipt.sessions.slice(0, told.length)
      assert.deepEqual(again.map(withoutCommit), told)
      for (const [at, { sinceCommitMs }] of again.entries())
        assert.ok([undefined, answered.sessions[at]!.sinceCommitMs].includes(sinceCommitMs))
    }
    assert.ok(await this.#requireWhole(id, serial), `${id} is stolen in the end`)
    await victim.closed
    const { items, unheard } = await this.#live.admin.listSessions({ deviceIds: [id] })
    assert.deepEqual([items, unheard], [[], []])
    // A broker that goes on has ended the session itself, and says so as soon as there is somebody to hear it.
    if (!brokerFell) while ((await this.#untilInForce(id, key)).sessions.length === 0) await delay(pauseMs)
    assert.equal(await this.#outcomeOf(victim.identity, id), 135)
    await this.#requireListed(receipt, serial)
    await this.#requireRefused(id, victim.unspentToken)
    await this.#requirePurged(id)
  }

  /** Both logs of the registry, from their first entry to the last; nothing runs any more then. */
  async requireWholeLogs(): Promise<void> {
    await this.#live.gateway.stop()
    const dataDir = dirname(this.#live.gateway.endpoints.rootCertificate)
    await using registry = new Registry(await openDatabase(join(dataDir, 'enroll', 'registry')))
    await requireWholeChains(registry)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#agent.destroy()
    await this.#live[Symbol.asyncDispose]()
  }

  /** A device with all that a thief could use: a session with a will, messages kept and queued, a token, a request that waits. */
  async #prepare(id: string): Promise<Victim> {
    const { admin, server } = this.#live
    const identity = await this.#enroll(id, 'camera')
    const queue = await this.#connect(this.#service, `dashboard:${id}`, {
      clean: false,
      properties: { sessionExpiryInterval: 3_600 },
    })
    await queue.subscribeAsync(topicOf(id, '#'), { qos: 1 })
    queue.end(true)
    const will = { topic: topicOf(id, 'will'), payload: Buffer.from('gone'), qos: 1 as const, retain: false }
    const thief = await this.#connect(identity, id, { will })
    const closed = new Promise<void>((resolve) => thief.once('close', () => resolve()))
    await thief.publishAsync(topicOf(id, 'last'), 'stolen goods', { qos: 1, retain: true })
    await thief.publishAsync(topicOf(id, 'more'), 'more of them', { qos: 1 })
    const waiting = await server.operator.createToken(id, 'camera')
    await assert.rejects(
      await this.#requestOf(id, waiting),
      (error) => error instanceof EstError && error.status === 202,
    )
    const certificates = await admin.listCertificates({ deviceId: id })
    const unspentToken = await server.operator.createToken(id, 'camera')
    return { id, identity, serial: certificates[0]!.serial, closed, unspentToken }
  }

  /** @returns whether a broker has gone that had the session */
  async #strike(way: Way, id: string): Promise<boolean> {
    const { gateway } = this.#live
    switch (way) {
      case 'enroll':
      case 'broker':
        await delay(this.#below(longestMs))
        await this.#live.crash(way)
        return way === 'broker'
      case 'both':
        await delay(this.#below(longestMs))
        await Promise.all([this.#live.crash('enroll'), this.#live.crash('broker')])
        return true
      case 'broker before it reads':
        await this.#whileStopped(id, () => this.#live.crash('broker'))
        return true
      case 'enroll before it is answered': {
        const { broker } = gateway.pids
        await this.#whileStopped(id, () => {
          const back = this.#live.crash('enroll')
          process.kill(broker!, 'SIGCONT')
          return back
        })
        return false
      }
    }
  }

  async #whileStopped(id: string, strike: () => Promise<void>): Promise<void> {
    process.kill(this.#live.gateway.pids.broker!, 'SIGSTOP')
    while ((await this.#live.admin.getDevice(id)).status !== 'revoked') await delay(1)
    await delay(this.#below(longestMs))
    await strike()
  }

  /** All of it or nothing. @returns which */
  async #requireWhole(id: string, serial: string): Promise<boolean> {
    const { admin } = this.#live
    const device = await this.#whenItLives(() => admin.getDevice(id))
    const certificate = await admin.getCertificate(serial)
    const incidents = await admin.listIncidents({ deviceId: id, open: false })
    const waiting = (await admin.listApprovals({ decision: 'pending' })).filter(({ deviceId }) => deviceId === id)
    const isThere = device.stolenAt !== undefined
    assert.deepEqual(
      [device.status, certificate.status, incidents.length, waiting.length],
      isThere ? ['revoked', 'revoked', 1, 0] : ['active', 'issued', 0, 1],
      `${id} is whole`,
    )
    return isThere
  }

  async #requireListed({ crlNumber, certificates }: TheftReceipt, serial: string): Promise<void> {
    assert.ok(certificates.includes(serial))
    const { distributionPoint } = await this.#live.admin.getCertificate(serial)
    const answer = await fetch(`${this.#status}/${distributionPoint}.crl`)
    const list = new X509Crl(await answer.arrayBuffer())
    assert.ok(list.findRevoked(serial), `the list ${crlNumber} names ${serial}`)
  }

  async #requireRefused(id: string, unspentToken: string): Promise<void> {
    await assert.rejects(
      await this.#requestOf(id, unspentToken),
      (error) => error instanceof EstError && error.status === 403,
    )
  }

  /** What it left is not delivered: retained, queued, nor its will. */
  async #requirePurged(id: string): Promise<void> {
    const reader = await this.#untilConnected('dashboard:reader', {})
    const found = new Inbox(reader)
    await reader.subscribeAsync(topicOf(id, 'last'), { qos: 1 })
    await reader.subscribeAsync(topicOf('keeper', 'last'), { qos: 1 })
    await found.until('kept')
    assert.deepEqual(found.payloads, ['kept'])
    reader.end(true)
    const queue = await this.#untilConnected(`dashboard:${id}`, {
      clean: false,
      properties: { sessionExpiryInterval: 3_600 },
    })
    const queued = new Inbox(queue)
    await queue.subscribeAsync(topicOf('keeper', 'last'), { qos: 1 })
    await queued.until('kept')
    // By an empty message the gateway says that a retained one is gone.
    const left = queued.payloads.filter((payload) => payload !== '')
    assert.deepEqual(left, ['kept'])
    queue.end(true)
  }

  async #untilInForce(id: string, key: string): Promise<TheftReceipt> {
    for (let left = patience; ; left--) {
      const receipt = await this.#say(id, key).catch((error: unknown) => {
        if (left === 0) throw error
      })
      if (receipt?.inForce && receipt.crlNumber !== undefined) return receipt
      await delay(pauseMs)
    }
  }

  /** One request with a key of ours: the client of the CLI makes one for each call. */
  async #say(id: string, key: string): Promise<TheftReceipt> {
    const { promise, resolve, reject } = Promise.withResolvers<string>()
    const sent = request(
      `${this.#live.gateway.endpoints.admin}/v1/devices/${id}/stolen`,
      {
        method: 'POST',
        agent: this.#agent,
        headers: { 'content-type': 'application/json', 'idempotency-key': key },
        signal: AbortSignal.timeout(3 * waitMs),
      },
      async (answer) => {
        let text = ''
        for await (const part of answer) text += part
        if (answer.statusCode === 200) resolve(text)
        else reject(new Error(`${answer.statusCode} ${text}`))
      },
    )
    sent.on('error', reject).end(JSON.stringify({ waitMs }))
    return theftReceipt.parse(JSON.parse(await promise))
  }

  async #enroll(id: string, profile: string): Promise<Identity> {
    const ask = await this.#requestOf(id, await this.#live.server.operator.createToken(id, profile))
    try {
      return await ask()
    } catch (error) {
      if (!(error instanceof EstError) || error.retryAfterMs === undefined) throw error
      const { admin } = this.#live
      const [waiting] = (await admin.listApprovals({ decision: 'pending' })).filter(({ deviceId }) => deviceId === id)
      await admin.approve(waiting!.id, {})
      return ask()
    }
  }

  /** Asks with a key of its own, and with the same request each time. */
  async #requestOf(id: string, token: string): Promise<() => Promise<Identity>> {
    const { est } = this.#live.server
    const { privateKeyPem, csrDer } = await createKeyAndCsr({ commonName: id })
    return async () => identityOf(est, privateKeyPem, await est.simpleenroll({ id, token, csr: async () => csrDer }))
  }

  async #connect(identity: Identity, clientId: string, more: IClientOptions = {}): Promise<MqttClient> {
    const client = await connectAsync(this.#live.server.mqtts, {
      ...{ ca: this.#live.rootPem, key: identity.privateKeyPem, cert: identity.chainPem, rejectUnauthorized: true },
      ...{ clientId, protocolVersion: 5, reconnectPeriod: 0, ...more },
    })
    client.on('error', () => {})
    return client
  }

  async #untilConnected(clientId: string, more: IClientOptions): Promise<MqttClient> {
    for (let left = patience; ; left--) {
      try {
        return await this.#connect(this.#service, clientId, more)
      } catch (error) {
        if (left === 0) throw error
        await delay(pauseMs)
      }
    }
  }

  /** Tries while the broker is not back, or has not caught up; the code of a refusal otherwise. */
  async #outcomeOf(identity: Identity, id: string): Promise<number | 'connected'> {
    for (let left = patience; ; left--) {
      try {
        ;(await this.#connect(identity, id)).end(true)
        return 'connected'
      } catch (error) {
        const { code } = error as { code?: unknown }
        if (typeof code === 'number' && code !== 136) return code
        if (left === 0) throw error
        await delay(pauseMs)
      }
    }
  }

  async #whenItLives<T>(ask: () => Promise<T>): Promise<T> {
    for (let left = patience; ; left--) {
      try {
        return await ask()
      } catch (error) {
        if (left === 0 || !isFleetError(error, 'unavailable')) throw error
        await delay(pauseMs)
      }
    }
  }

  #count(what: string): void {
    this.met.set(what, (this.met.get(what) ?? 0) + 1)
  }
}

const { values } = parseArgs({ options: { rounds: { type: 'string' }, seed: { type: 'string' } } })
const rounds = Number(values.rounds ?? 10)
const seed = Number(values.seed ?? 1)
const started = performance.now()
await using run = await StolenRun.start(seed)
for (let n = 0; n < rounds; n++) await run.round(ways[n % ways.length]!, n)
await run.requireWholeLogs()
const seconds = (performance.now() - started) / 1_000
console.log(
  `${rounds} thefts with SIGKILL, seed ${seed}, ${seconds.toFixed(0)} s: each in force in the end, both logs whole`,
)
for (const [what, count] of [...run.met].sort()) console.log(`  ${what}  ${count}`)
