import assert from 'node:assert/strict'
import { after, before, suite, test } from 'node:test'
import { createSecureContext, type SecureContext } from 'node:tls'
import { encode } from '../../broker/wire/codec.ts'
import type { Version } from '../../broker/wire/packet.ts'
import { BrokerHarness, eventually, parsePolicy, type TestDevice } from '../harness/broker.ts'
import { OctetClient } from '../harness/octets.ts'
import { connectPacket } from '../harness/raw-mqtt.ts'
import { type Answer, type Dialogue, type MqttVector, mqttDialogues, mqttVectors } from '../vectors/mqtt/load.ts'

const policy = parsePolicy(`
policies:
  - { name: open, allow: { publish: ["#"], subscribe: ["#"] }, deny: { publish: ["denied/#"], subscribe: ["denied/#"] } }
`)
const lanes = 8
let harness: BrokerHarness
/** Stands still but for the dialogues that move it. */
let now = Date.now()

before(async () => {
  const broker = { maxConnectionsPerDevice: 100 }
  harness = await BrokerHarness.start({ policy, broker, clock: () => new Date(now) })
})
after(() => harness[Symbol.asyncDispose]())

type Peer = { device: TestDevice; secureContext: SecureContext; session?: Buffer | undefined }
const peers = new Map<string, Promise<Peer>>()

async function peerOf(id: string): Promise<Peer> {
  const device = await harness.device(id)
  const { key, chain: cert } = device
  // 1.2 resumes without a key agreement: a thousand connections cost a third less.
  return { device, secureContext: createSecureContext({ ca: harness.pki.root.pem, key, cert, maxVersion: 'TLSv1.2' }) }
}

async function dial(id: string): Promise<OctetClient> {
  if (!peers.has(id)) peers.set(id, peerOf(id))
  const peer = await peers.get(id)!
  const { device, secureContext, session } = peer
  const socket = await harness.socket(device, { secureContext, ...(session === undefined ? {} : { session }) })
  peer.session ??= socket.getSession()
  return new OctetClient(socket)
}

/** The device whose certificate lets a CONNECT have its client id, or one that it does not belong to. */
function deviceOf({ packet }: MqttVector): string {
  return packet?.type === 'connect' && /^[a-z0-9-]+$/.test(packet.clientId) ? packet.clientId : 'sensor-1'
}

/** As patterns for `OctetClient.next`, and whether the connection stays. */
function expectedOf(answer: Answer): { patterns: string[]; stays: boolean } {
  const code = (number: number): string => number.toString(16).padStart(2, '0')
  if (typeof answer === 'string') {
    const patterns = answer === 'close' || answer === 'nothing' ? [] : [answer.replaceAll(' ', '')]
    return { patterns, stays: answer !== 'close' }
  }
  if ('disconnect' in answer) return { patterns: [`e0..${code(answer.disconnect)}.*`], stays: false }
  const { connack, version } = answer
  const flags = connack === 0 ? '0.' : '00'
  return { patterns: [`20..${flags}${code(connack)}${version === 5 ? '.+' : ''}`], stays: connack === 0 }
}

/** Plays one vector after the other. */
class Lane {
  readonly #clientId: string
  /** Connected, and nothing was left behind by what came before: as good as a new one. */
  #open: { client: OctetClient; version: Version } | undefined

  constructor(at: number) {
    this.#clientId = `lanes:${at}`
  }

  async play(vector: MqttVector): Promise<void> {
    const { version, state, bytes, packet } = vector
    const { patterns, stays } = expectedOf(vector.answer!)
    const client = state === 'fresh' ? await dial(deviceOf(vector)) : await this.#connected(version)
    let isOpen = false
    try {
      client.send(bytes.toString('hex'))
      for (const pattern of patterns) assert.match(await client.next(), new RegExp(`^${pattern}$`))
      if (stays) client.send('c000')
      assert.equal(await client.next(), stays ? 'd000' : 'end')
      isOpen = stays && state === 'connected' && packet?.type !== 'publish'
    } finally {
      if (isOpen) this.#open = { client, version }
      else client.drop()
    }
  }

  async #connected(version: Version): Promise<OctetClient> {
    const open = this.#open
    this.#open = undefined
    if (open?.version === version) return open.client
    open?.client.drop()
    const client = await dial('lanes')
    client.send(encode(connectPacket(version, { clientId: this.#clientId }), version).toString('hex'))
    assert.match(await client.next(), /^20..0000/)
    return client
  }

  end(): void {
    this.#open?.client.drop()
  }
}

const all = mqttVectors()
// Subscribers first: what is published later leaves retained messages behind.
for (const file of new Set(['subscribe', 'unsubscribe', ...all.keys()])) {
  const vectors = all.get(file)!.filter(({ from }) => from === 'client')
  if (vectors.length === 0) continue
  test(`the ${vectors.length} vectors of ${file} are answered at a mutual-TLS socket as they say`, async () => {
    const broken: string[] = []
    const playAll = async (some: Iterable<MqttVector>, at: number): Promise<void> => {
      const lane = new Lane(at)
      for (const vector of some) {
        const { name, clause } = vector
        await lane.play(vector).catch((error: Error) => broken.push(`${name} [${clause}]: ${error.message}`))
      }
      lane.end()
    }
    // A client id is for one connection at a time.
    const { inTurn = [], others = [] } = Object.groupBy(vectors, ({ packet }) =>
      packet?.type === 'connect' ? 'inTurn' : 'others',
    )
    const shared = others.values()
    await Promise.all([playAll(inTurn, 0), ...Array.from({ length: lanes }, (_, at) => playAll(shared, at))])
    assert.deepEqual(broken, [])
  })
}

/** Packets in hex are matched against patterns, whose named groups are kept for what is sent later. */
class Conversation {
  readonly #clients = new Map<string, OctetClient>()
  readonly #names = new Map<string, string>()

  async follow({ steps }: Dialogue): Promise<void> {
    for (const [at, step] of steps.entries()) {
      try {
        if ('later' in step) await this.#wait(step.later)
        else if ('send' in step) (await this.#clientOf(step.client)).send(this.#filled(step.send))
        else if ('drop' in step) this.#endOf(step.client)
        else await this.#expect(step.client, [step.expect].flat())
      } catch (error) {
        throw new Error(`step ${at + 1}, ${JSON.stringify(step)}: ${(error as Error).message}`)
      }
    }
  }

  end(): void {
    for (const client of this.#clients.values()) client.drop()
  }

  /** What begins with the end of a connection begins before the clock goes on. */
  async #wait(seconds: number): Promise<void> {
    const { lines } = harness.testLog
    const countOf = (wanted: string): number => lines.filter(({ event }) => event === wanted).length
    await eventually(() => countOf('session.opened') - countOf('session.closed') === this.#clients.size)
    now += seconds * 1_000
  }

  async #clientOf(name: string): Promise<OctetClient> {
    const client = this.#clients.get(name) ?? (await dial('d'))
    this.#clients.set(name, client)
    return client
  }

  #endOf(name: string): void {
    this.#clients.get(name)?.drop()
    this.#clients.delete(name)
  }

  /** In any order where there are several. */
  async #expect(name: string, patterns: string[]): Promise<void> {
    const client = await this.#clientOf(name)
    const left = patterns.map((pattern) => new RegExp(`^${this.#filled(pattern)}$`))
    while (left.length > 0) {
      const packet = await client.next()
      const found = left.findIndex((pattern) => pattern.test(packet))
      assert.notEqual(found, -1, `${packet} came`)
      const [pattern] = left.splice(found, 1)
      for (const [group, hex] of Object.entries(pattern!.exec(packet)!.groups ?? {})) this.#names.set(group, hex)
      if (packet === 'end') this.#endOf(name)
    }
  }

  #filled(text: string): string {
    return text
      .replaceAll(' ', '')
      .replaceAll(/(?<!\?)<(\w+)>/g, (_, name: string) => this.#names.get(name) ?? assert.fail(`no ${name} came`))
  }
}

const dialogues = [...mqttDialogues()].flatMap(([file, cases]) => cases.map((dialogue) => ({ file, ...dialogue })))
for (const alone of [false, true]) {
  suite(alone ? 'dialogues, one after the other' : 'dialogues', { concurrency: alone ? 1 : lanes }, () => {
    for (const dialogue of dialogues.filter((one) => (one.alone ?? false) === alone)) {
      test(`${dialogue.file}: ${dialogue.name} [${dialogue.clause}]`, async () => {
        const conversation = new Conversation()
        try {
          await conversation.follow(dialogue)
        } finally {
          conversation.end()
        }
      })
    }
  })
}
