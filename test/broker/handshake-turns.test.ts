import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { after, before, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { type Comer, HandshakeTurns } from '../../broker/handshake-turns.ts'
import { eventually } from '../harness/broker.ts'

let server: Server
before(async () => {
  server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
})
after(() => server.close())

type Pair = { peer: Socket; comer: Comer }
type Heard = { turn: number; who: number }

/** Sockets as the listener has them; an octet stands for the end of a handshake, and is noted with the turn it was read in. */
async function pairs(stack: DisposableStack, count: number, turns = new HandshakeTurns()) {
  const clock = { turn: 0 }
  const heard: Heard[] = []
  const begun: number[] = []
  const all: Pair[] = []
  for (let who = 0; who < count; who++) {
    const arrived = once(server, 'connection') as Promise<[Socket]>
    const peer = connect((server.address() as AddressInfo).port, '127.0.0.1').on('error', () => {})
    const [socket] = await arrived
    stack.defer(() => void peer.destroy())
    stack.defer(() => void socket.destroy())
    const begin = (): void => {
      begun.push(who)
      socket.on('data', () => {
        heard.push({ turn: clock.turn, who })
        turns.remove(comer)
      })
    }
    const comer = { socket, begin }
    stack.defer(() => turns.remove(comer))
    all.push({ peer, comer })
  }
  const turnUntil = async (condition: () => boolean): Promise<void> => {
    for (; !condition(); clock.turn++) await setImmediate()
  }
  return { turns, all, heard, begun, turnUntil }
}

const allOf = (count: number): number[] => Array.from({ length: count }, (_, at) => at)
const many = 10

test('one begins after the other, first come first', async () => {
  using stack = new DisposableStack()
  const { turns, all, begun } = await pairs(stack, many)
  for (const { comer } of all) turns.add(comer)
  await eventually(() => begun.length === many)
  assert.deepEqual(begun, allOf(many))
})

test('of those who answer at once one is heard in every second turn, and all in the end', async () => {
  using stack = new DisposableStack()
  const { turns, all, heard, begun, turnUntil } = await pairs(stack, many)
  for (const { comer } of all) turns.add(comer)
  await turnUntil(() => begun.length === many)
  for (const { peer } of all) peer.write('x')
  await turnUntil(() => heard.length >= many)
  const inOrder = heard.map(({ turn }) => turn)
  assert.ok(
    inOrder.every((turn, at) => at === 0 || turn >= inOrder[at - 1]! + 2),
    inOrder.join(),
  )
  assert.deepEqual(new Set(heard.map(({ who }) => who)), new Set(allOf(many)))
})

test('who has begun and says nothing holds nobody up, whether the others begin or have begun', async () => {
  using stack = new DisposableStack()
  const { turns, all, heard, begun } = await pairs(stack, many)
  const [answering, ...silent] = all as [Pair, ...Pair[]]
  for (const { comer } of silent) turns.add(comer)
  await eventually(() => begun.length === silent.length)
  turns.add(answering.comer)
  await eventually(() => begun.length === all.length)
  answering.peer.write('x')
  await eventually(() => heard.length === 1)
  assert.equal(heard[0]!.who, 0)
})

test('of more than may be held back those who began first are not', async () => {
  using stack = new DisposableStack()
  const { turns, all, heard, begun, turnUntil } = await pairs(stack, 3, new HandshakeTurns({ mostHeld: 1 }))
  for (const { comer } of all) turns.add(comer)
  await turnUntil(() => begun.length === 3)
  for (const { peer } of all) peer.write('x')
  await turnUntil(() => heard.length === 3)
  assert.ok(heard[2]!.turn < heard[0]!.turn + 2, JSON.stringify(heard))
})

test('who has gone is passed over, before its handshake begins and in it', async () => {
  using stack = new DisposableStack()
  const { turns, all, heard, begun } = await pairs(stack, 4)
  const [first, second, third, last] = all as [Pair, Pair, Pair, Pair]
  for (const { comer } of [first, second, third]) turns.add(comer)
  turns.remove(second.comer)
  third.comer.socket.destroy()
  await eventually(() => begun.length === 1)
  turns.remove(first.comer)
  turns.add(last.comer)
  await eventually(() => begun.length === 2)
  last.peer.write('x')
  await eventually(() => heard.length === 1)
  assert.deepEqual(begun, [0, 3])
})
