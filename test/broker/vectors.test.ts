import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { createSecureContext, type SecureContext } from 'node:tls'
import { encode } from '../../broker/wire/codec.ts'
import { BrokerHarness, parsePolicy, type TestDevice } from '../harness/broker.ts'
import { OctetClient } from '../harness/octets.ts'
import { connectPacket } from '../harness/raw-mqtt.ts'
import { type Answer, type Dialogue, type MqttVector, mqttDialogues, mqttVectors } from '../vectors/mqtt/load.ts'

const policy = parsePolicy(`
policies:
  - { name: open, allow: { publish: ["#"], subscribe: ["#"] }, deny: { publish: ["denied/#"], subscribe: ["denied/#"] } }
`)
const lanes = 8
let harness: BrokerHarness
let skewMs = 0

before(async () => {
  harness = await BrokerHarness.start({ policy, clock: () => new Date(Date.now() + skewMs) })
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
function deviceOf({ packet, state }: MqttVector): string {
  if (state === 'connected') return 'lanes'
  return packet?.type === 'connect' && /^[a-z0-9-]+$/.test(packet.clientId) ? packet.clientId : 'sensor-1'
}

/** As patterns for `OctetClient.next`. */
function patternsOf(answer: Answer): string[] {
  const code = (number: number): string => number.toString(16).padStart(2, '0')
  if (typeof answer === 'string') {
    if (answer === 'close') return ['end']
    return answer === 'nothing' ? ['d000'] : [answer.replaceAll(' ', ''), 'd000']
  }
  if ('disconnect' in answer) return [`e0..${code(answer.disconnect)}.*`, 'end']
  const { connack, version } = answer
  const flags = connack === 0 ? '0.' : '00'
  return [`20..${flags}${code(connack)}${version === 5 ? '.+' : ''}`, connack === 0 ? 'd000' : 'end']
}

async function play(vector: MqttVector, lane: number): Promise<void> {
  const client = await dial(deviceOf(vector))
  try {
    const { version, state, bytes } = vector
    if (state === 'connected') {
      client.send(encode(connectPacket(version, { clientId: `lanes:${lane}` }), version).toString('hex'))
      assert.match(await client.next(), /^20..0000/)
    }
    client.send(bytes.toString('hex'))
    for (const pattern of patternsOf(vector.answer!)) {
      if (pattern === 'd000') client.send('c000')
      assert.match(await client.next(), new RegExp(`^${pattern}$`))
    }
  } finally {
    client.drop()
  }
}

const all = mqttVectors()
// Subscribers first: what is published later leaves retained messages behind.
for (const file of new Set(['subscribe', 'unsubscribe', ...all.keys()])) {
  const vectors = all.get(file)!.filter(({ from }) => from === 'client')
  if (vectors.length === 0) continue
  test(`the ${vectors.length} vectors of ${file} are answered at a mutual-TLS socket as they say`, async () => {
    const broken: string[] = []
    const playAll = async (some: Iterable<MqttVector>, lane: number): Promise<void> => {
      for (const vector of some) {
        await play(vector, lane).catch((error: Error) =>
          broken.push(`${vector.name} [${vector.clause}]: ${error.message}`),
        )
      }
    }
    // A client id is for one connection at a time.
    const { inTurn = [], others = [] } = Object.groupBy(vectors, ({ packet }) =>
      packet?.type === 'connect' ? 'inTurn' : 'others',
    )
    const shared = others.values()
    await Promise.all([playAll(inTurn, 0), ...Array.from({ length: lanes }, (_, lane) => playAll(shared, lane))])
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
        if ('later' in step) skewMs += step.later * 1_000
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

for (const [file, dialogues] of mqttDialogues()) {
  for (const dialogue of dialogues) {
    test(`${file}: ${dialogue.name} [${dialogue.clause}]`, async () => {
      const conversation = new Conversation()
      try {
        await conversation.follow(dialogue)
      } finally {
        conversation.end()
      }
    })
  }
}
