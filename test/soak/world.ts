/** What all devices of a soak share: who they are, what they may do, and the books that are kept on them. */
import { createHistogram } from 'node:perf_hooks'
import { policyDocument } from '../../contract/policy-document.ts'
import { TestPki } from '../harness/certificates.ts'
import { FakeFeed } from '../harness/feed.ts'
import { randomOf } from '../harness/random.ts'
import { BrokerProcess } from './broker.ts'
import { Checks } from './checks.ts'
import { Identity, type Server } from './wire.ts'

export type Random = (below: number) => number

const allowed = {
  name: 'cells',
  allow: { publish: [`cells/\${device.group}/\${device.id}/#`], subscribe: [`cells/\${device.group}/#`] },
}
const denied = {
  name: 'ruled',
  match: { 'device.id': '*-ruled-*' },
  deny: { publish: ['cells/+/+/ruled'], subscribe: ['cells/+/+/q1'] },
}

export class World implements AsyncDisposable {
  readonly seed: number
  readonly pki: TestPki
  readonly feed: FakeFeed
  readonly broker: BrokerProcess
  readonly checks = new Checks((name, fault) => console.error(`\nFAULT        ${name}: ${fault}`))
  readonly counts = { published: 0, heard: 0, connections: 0, takeovers: 0, malformed: 0, revoked: 0, policies: 0 }
  /** Microseconds from PINGREQ to PINGRESP. */
  readonly pings = createHistogram({ lowest: 1, highest: 120_000_000, figures: 2 })
  readonly #identities = new Map<string, Promise<Identity>>()
  #policyVersion = 0

  private constructor(seed: number, pki: TestPki, feed: FakeFeed, broker: BrokerProcess) {
    this.seed = seed
    this.pki = pki
    this.feed = feed
    this.broker = broker
    broker.on('fault', (fault) => this.checks.look('broker: no error, no restart', fault))
  }

  static async start({ seed, log }: { seed: number; log: string | undefined }): Promise<World> {
    const pki = await TestPki.create('Soak')
    const feed = await FakeFeed.start(pki)
    feed.append({ type: 'trust.changed', data: { anchors: pki.anchors } })
    const world = new World(seed, pki, feed, await BrokerProcess.start(pki, feed, log))
    await world.rule(false)
    return world
  }

  get server(): Server {
    return { port: this.broker.port, ca: this.pki.root.pem }
  }

  /** Numbers of one device's own, so that what it does hangs on the seed and not on the others. */
  randomFor(id: string): Random {
    let hash = this.seed
    for (const char of id) hash = Math.imul(hash, 31) + char.charCodeAt(0)
    return randomOf(hash)
  }

  /** A device with its certificate, made when it is asked for first and in force when this resolves. */
  identity(id: string, group: string): Promise<Identity> {
    const known = this.#identities.get(id)
    if (known !== undefined) return known
    const made = this.#enroll(id, group)
    this.#identities.set(id, made)
    return made
  }

  /** Resolves when the broker has the revocation in force. */
  async revoke({ id, certificate: { serial, fingerprint } }: Identity, group: string): Promise<void> {
    this.counts.revoked++
    this.#identities.delete(id)
    const seq = this.feed.append(
      { type: 'device.changed', data: { id, profile: 'sensor', groups: [group], status: 'revoked' } },
      { type: 'certificate.revoked', data: { serial, fingerprint, deviceId: id, reason: 'keyCompromise' } },
    )
    await this.feed.untilApplied(seq)
  }

  /** The policy, with or without what it denies the ruled ones; resolves when it is in force. */
  async rule(denies: boolean): Promise<void> {
    this.counts.policies++
    const document = policyDocument.parse({ policies: denies ? [allowed, denied] : [allowed] })
    const seq = this.feed.append({ type: 'policy.changed', data: { version: ++this.#policyVersion, document } })
    await this.feed.untilApplied(seq)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.broker[Symbol.asyncDispose]()
    await this.feed[Symbol.asyncDispose]()
  }

  async #enroll(id: string, group: string): Promise<Identity> {
    const certificate = await this.pki.device(id)
    const { serial, fingerprint, notAfter } = certificate
    const seq = this.feed.append(
      { type: 'device.changed', data: { id, profile: 'sensor', groups: [group], status: 'active' } },
      { type: 'certificate.issued', data: { serial, fingerprint, deviceId: id, notAfter: notAfter.toISOString() } },
    )
    await this.feed.untilApplied(seq)
    return new Identity(id, certificate, this.server)
  }
}
