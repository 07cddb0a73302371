import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { PassThrough } from 'node:stream'
import { after, before, test } from 'node:test'
import { Aedes } from 'aedes'
import { Bus } from '../../../broker/wire/aedes-port.ts'

type Carried = { id: number }
const noop = (): void => undefined
let bus: Bus<Carried>
before(async () => {
  bus = await Bus.start('test', (error) => assert.fail(String(error)))
})
after(() => bus[Symbol.asyncDispose]())

async function listen(clientId: string, wants: (carried: Carried) => boolean = () => true) {
  const taken: Carried[] = []
  const waiting: (() => void)[] = []
  let isLost = false
  const client = bus.attach({
    clientId,
    wants,
    take: (carried) => {
      taken.push(carried)
      for (const resolve of waiting.splice(0)) resolve()
    },
    lost: () => {
      isLost = true
    },
  })
  const until = async (count: number): Promise<void> => {
    while (taken.length < count) await new Promise<void>((resolve) => waiting.push(resolve))
  }
  return { client, taken, until, isLost: () => isLost }
}

test('a filter that was unsubscribed from is off the bus, however soon that came', async () => {
  const asked: number[] = []
  const { client } = await listen('hasty', ({ id }) => {
    asked.push(id)
    return false
  })
  // Behind another removal, and without one.
  for (const filter of ['h/+', 'h/#', '+/a']) {
    void client.subscribe([filter])
    client.unsubscribe([filter])
  }
  await client.subscribe(['h/a'])
  client.unsubscribe(['h/a'])
  await client.subscribe(['other'])
  bus.publish('h/a', { id: 1 }, noop)
  bus.publish('other', { id: 2 }, noop)
  while (asked.length === 0) await new Promise((resolve) => setImmediate(resolve))
  assert.deepEqual(asked, [2])
})

test('what is published reaches a listener once, as the object it was, whatever number of filters match', async () => {
  const { client, taken, until } = await listen('one')
  await client.subscribe(['a/+', 'a/#', 'a/b'])
  const carried = [{ id: 1 }, { id: 2 }]
  for (const one of carried) bus.publish('a/b', one, noop)
  await until(2)
  assert.ok(taken.every((one, at) => one === carried[at]))
  await client.close()
})

test('who does not want a message does not get it', async () => {
  const { client, taken, until } = await listen('two', ({ id }) => id !== 1)
  await client.subscribe(['x'])
  bus.publish('x', { id: 1 }, noop)
  bus.publish('x', { id: 2 }, noop)
  await until(1)
  assert.deepEqual(taken, [{ id: 2 }])
  await client.close()
})

test('a filter that is removed and made again in one go is in force', async () => {
  const { client, taken, until } = await listen('three')
  await client.subscribe(['x', 'y'])
  client.unsubscribe(['x', 'y'])
  await client.subscribe(['x'])
  bus.publish('y', { id: 1 }, noop)
  bus.publish('x', { id: 2 }, noop)
  await until(1)
  assert.deepEqual(taken, [{ id: 2 }])
  await client.close()
})

test('a client id is free once its listener is closed, and the listener hears nothing more', async () => {
  const first = await listen('four')
  await first.client.subscribe(['x'])
  await first.client.close()
  const second = await listen('four')
  await second.client.subscribe(['x'])
  bus.publish('x', { id: 1 }, noop)
  await second.until(1)
  assert.deepEqual(first.taken, [])
  await second.client.close()
})

test('a listener that is closed before it is in leaves nothing on the bus, and one without a filter was never there', async () => {
  const early = await listen('five')
  const subscribing = early.client.subscribe(['x'])
  early.client.unsubscribe(['x'])
  await early.client.close()
  await subscribing
  await early.client.subscribe(['x'])
  const silent = await listen('five')
  silent.client.unsubscribe(['x'])
  await silent.client.close()
  const last = await listen('five')
  await last.client.subscribe(['x'])
  bus.publish('x', { id: 1 }, noop)
  await last.until(1)
  assert.deepEqual([early.taken, silent.taken, last.isLost()], [[], [], false])
  await last.client.close()
})

test('the names of aedes and mqtt-packet that the port relies on are there', async () => {
  const broker = await Aedes.createBroker()
  const stream = new PassThrough()
  const client = broker.handle(stream as never, undefined as never) as unknown as Record<string, unknown>
  assert.equal(typeof client._nextBatch, 'function')
  assert.equal(typeof (client._parser as { emit: unknown }).emit, 'function')
  assert.equal(typeof client.subscriptions, 'object')
  stream.destroy()
  await new Promise<void>((resolve) => broker.close(resolve))
  const packets = createRequire(import.meta.resolve('aedes'))('mqtt-packet') as {
    writeToStream(packet: object, stream: object, options: object): boolean
  }
  const bytes = new PassThrough()
  packets.writeToStream({ cmd: 'puback', messageId: 1, reasonCode: 0x10 }, bytes, { protocolVersion: 5 })
  bytes.end()
  assert.deepEqual(
    Buffer.concat(await bytes.toArray()),
    Buffer.from([0x40, 4, 0, 1, 0x10, 0]),
    'any other stream gets the octets of its version',
  )
})

test('aedes asks its persistence for what nobody has put there, and puts nothing there itself', async (t) => {
  const createMemory = createRequire(import.meta.resolve('aedes'))('aedes-persistence') as () => object
  const persistence = Object.getPrototypeOf(createMemory()) as Record<string, (...given: unknown[]) => unknown>
  const names = Object.getOwnPropertyNames(persistence).filter(
    (name) => !['constructor', 'broker', 'setup'].includes(name),
  )
  const calls = names.map((name) => ({ name, count: t.mock.method(persistence, name).mock }))
  t.mock.timers.enable({ apis: ['setInterval'] })
  {
    await using own = await Bus.start<Carried>('asking', (error) => assert.fail(String(error)))
    const taken = Promise.withResolvers<Carried>()
    const clientId = 'asking'
    const client = own.attach({ clientId, wants: () => true, take: taken.resolve, lost: () => {} })
    await client.subscribe(['a/+', '#'])
    own.publish('a/b', { id: 1 }, noop)
    await taken.promise
    client.unsubscribe(['#'])
    await client.subscribe(['a/b'])
    t.mock.timers.tick(4 * 60_000) // when it looks for wills of brokers that died
    await client.close()
    const other = own.attach({ clientId, wants: () => true, take: () => {}, lost: () => {} })
    await other.subscribe(['x'])
  }
  assert.deepEqual(
    calls
      .filter(({ count }) => count.callCount() > 0)
      .map(({ name }) => name)
      .sort(),
    ['cleanIncoming', 'cleanSubscriptions', 'createRetainedStreamCombi', 'delWill', 'outgoingStream', 'streamWill'],
  )
})
