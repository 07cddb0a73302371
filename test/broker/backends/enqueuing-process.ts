/** Enqueues, reads and acknowledges without end and says what was confirmed; its parent kills it. */
import { LevelSessions } from '../../../broker/backends/level-sessions.ts'
import { BrokerStore } from '../../../broker/store.ts'
import { say } from '../../harness/say.ts'
import { deliveryTo, messageOf, roomy } from '../../suites/session-store.ts'

const [folder, round] = process.argv.slice(2)
const broker = await BrokerStore.open(folder!)
const store = await LevelSessions.open({ area: broker.sessions, clock: () => new Date(), quotaOf: () => roomy })
const forGood = { keepMs: Number.POSITIVE_INFINITY }

/** To a session of its own and to one that all share: `sender n`, n growing. */
async function send(sender: string): Promise<never> {
  const { epoch } = await store.claim(sender, 'b', forGood)
  for (let n = 0; ; n++) {
    const message = messageOf(`${sender} ${n}`, { qos: n % 2 === 0 ? 1 : 2, from: sender })
    const packetId = (n % 60_000) + 1
    const deliveries = [deliveryTo('own', message), deliveryTo('shared', message)]
    const answers = await store.enqueue(deliveries, n % 2 === 0 ? undefined : { clientId: sender, epoch, packetId })
    if (answers.some((answer) => answer !== 'queued')) throw new Error(`${answers}`)
    say(`queued ${sender} ${n}`)
    if (n % 2 === 1) await store.incoming(sender, epoch, packetId, 'take')
  }
}

/** Takes every message once, QoS 2 with both of its steps. */
async function receive(): Promise<never> {
  const { epoch } = await store.claim('own', 'b', forGood)
  for (let packetId = 1; ; packetId = (packetId % 60_000) + 1) {
    const [entry] = await store.readQueue('own', epoch, 0, 1)
    if (entry === undefined) {
      await new Promise((resolve) => setImmediate(resolve))
      continue
    }
    const id = entry.packetId ?? packetId
    if (entry.state === 'publish') {
      await store.assignPacketId('own', epoch, entry.seq, id)
      say(`heard ${entry.message.payload}`)
      if (entry.qos === 2) await store.markReceived('own', epoch, id)
    }
    await store.ack('own', epoch, [id])
    if (entry.state === 'publish') say(`done ${entry.message.payload}`)
  }
}

for (const id of ['own', 'shared'])
  await store.release(id, (await store.claim(id, 'b', forGood)).epoch, Number.POSITIVE_INFINITY)
await Promise.all([receive(), ...[0, 1, 2, 3].map((n) => send(`${round}.${n}`))])
