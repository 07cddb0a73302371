/** The devices of bench/policy-change.bench.ts, in a thread of their own. */
import { once } from 'node:events'
import { connect } from 'node:tls'
import { parentPort } from 'node:worker_threads'
import { reason } from '../broker/wire/reason.ts'
import { connectPacket, publishPacket, RawClient } from '../test/harness/raw-mqtt.ts'

export type Identity = { id: string; key: string; chain: string }
export type Order =
  | { order: 'connect'; port: number; ca: string; devices: Identity[] }
  /** Each publishes once at QoS 1 and waits for the answer. */
  | { order: 'burst' }
  /** `senders` publish `perSecond` messages of QoS 1, all together, while one more publishes what is denied. */
  | {
      order: 'traffic'
      senders: number
      perSecond: number
      deniedPerSecond: number
      topics: 'one' | 'many'
      ms: number
    }
export type Report = { ms: number; allowed: number; denied: number; latencies: number[] }

const clients: { id: string; client: RawClient }[] = []
const pauseMs = 10
let packetId = 0

async function open({ port, ca, devices }: Order & { order: 'connect' }): Promise<void> {
  for (const { id, key, chain } of devices) {
    const socket = connect({ host: '127.0.0.1', port, ca, key, cert: chain, servername: 'localhost' })
    await once(socket, 'secureConnect')
    const client = RawClient.over(socket, 5)
    client.send(connectPacket(5, { clientId: id }))
    await client.expect('connack', { reason: 0 })
    clients.push({ id, client })
  }
}

/** @returns whether it was allowed */
async function ask({ id, client }: (typeof clients)[number]): Promise<boolean> {
  packetId = (packetId % 65_535) + 1
  client.send(publishPacket(`devices/${id}/telemetry/t`, '21.5', { qos: 1, packetId }))
  return (await client.expect('puback')).reason < reason.unspecifiedError
}

async function burst(): Promise<Report> {
  const begun = performance.now()
  const answers = await Promise.all(clients.map(ask))
  const allowed = answers.filter((isAllowed) => isAllowed).length
  return { ms: performance.now() - begun, allowed, denied: answers.length - allowed, latencies: [] }
}

async function traffic({
  senders,
  perSecond,
  deniedPerSecond,
  topics,
  ms,
}: Order & { order: 'traffic' }): Promise<Report> {
  const [storm, ...others] = clients
  const latencies: number[] = []
  let denied = 0
  const begun = performance.now()
  const isOn = (): boolean => performance.now() - begun < ms
  const due = (rate: number): number => Math.floor(((performance.now() - begun) * rate) / 1_000)
  const tick = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, pauseMs))
  const send = async (one: (typeof clients)[number]): Promise<void> => {
    for (let sent = 0; isOn(); ) {
      if (sent >= due(perSecond / senders)) await tick()
      else {
        const started = performance.now()
        await ask(one)
        latencies.push(performance.now() - started)
        sent++
      }
    }
  }
  const rage = async (): Promise<void> => {
    while (deniedPerSecond > 0 && isOn()) {
      const batch = Math.min(due(deniedPerSecond) - denied, 1_000)
      const topicOf = (at: number): string => (topics === 'one' ? 'others/state' : `others/${denied + at}`)
      storm!.client.send(...Array.from({ length: batch }, (_, at) => publishPacket(topicOf(at), '21.5')))
      denied += batch
      await tick()
    }
  }
  await Promise.all([rage(), ...others.slice(0, senders).map(send)])
  return { ms: performance.now() - begun, allowed: latencies.length, denied, latencies }
}

parentPort!.on('message', async (order: Order) => {
  if (order.order === 'connect') parentPort!.postMessage(await open(order))
  else parentPort!.postMessage(order.order === 'burst' ? await burst() : await traffic(order))
})
