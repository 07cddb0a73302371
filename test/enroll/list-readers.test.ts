import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { after, before, test } from 'node:test'
import { ListReaders } from '../../enroll/list-readers.ts'
import type { SignedList } from '../../pki/crl.ts'

const size = 8 * 1_048_576
const listOf = (...parts: Buffer[]): SignedList => ({
  number: 1,
  thisUpdate: new Date(),
  nextUpdate: new Date(),
  parts,
  bytes: parts.reduce((sum, { length }) => sum + length, 0),
})
const minutes = 60_000

const server = createServer()
before(async () => {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
})
after(() => server.close())

/** A peer that asks and then reads nothing, being sent this list. */
async function reader(
  readers: ListReaders,
  list: SignedList,
  current: () => SignedList,
): Promise<{ socket: Socket; response: ServerResponse; gone: Promise<unknown> }> {
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1').pause()
  socket.on('error', () => {})
  socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
  const [, response] = (await once(server, 'request')) as [unknown, ServerResponse]
  const gone = once(response, 'close')
  readers.add(response, list, current)
  for (const part of list.parts) response.write(part)
  return { socket, response, gone }
}

test('who reads a list slower than he may is cut, and who has read it is not', async () => {
  const readers = new ListReaders({ heldBytes: size, bytesPerSecond: size, graceMs: 0 })
  const list = listOf(Buffer.alloc(size / 8))
  const [slow, quick] = [await reader(readers, list, () => list), await reader(readers, list, () => list)]
  quick.socket.resume()
  quick.response.end()
  await quick.gone
  assert.ok(quick.response.writableFinished)
  await slow.gone
  assert.ok(!slow.response.writableFinished)
  slow.socket.destroy()
  quick.socket.destroy()
})

test('only so much is held for those who read what was replaced: the oldest go', async () => {
  const readers = new ListReaders({ heldBytes: 1.5 * size, bytesPerSecond: size, graceMs: minutes })
  const generations = Array.from({ length: 4 }, () => listOf(Buffer.alloc(size)))
  let served = generations[0]!
  const all: Awaited<ReturnType<typeof reader>>[] = []
  for (const list of generations) {
    served = list
    all.push(await reader(readers, list, () => served))
  }
  await Promise.all([all[0]!.gone, all[1]!.gone])
  assert.deepEqual(
    all.map(({ response }) => response.destroyed),
    [true, true, false, false],
  )
  for (const { socket } of all) socket.destroy()
  await Promise.all(all.map(({ gone }) => gone))
})

test('a list that was only added to since is no memory of its own', async () => {
  const readers = new ListReaders({ heldBytes: 0, bytesPerSecond: size, graceMs: minutes })
  const memory = Buffer.alloc(size)
  const [former, now] = [listOf(memory.subarray(0, size - 100)), listOf(memory)]
  const all = [await reader(readers, former, () => now), await reader(readers, now, () => now)]
  assert.deepEqual(
    all.map(({ response }) => response.destroyed),
    [false, false],
  )
  for (const { socket } of all) socket.destroy()
  await Promise.all(all.map(({ gone }) => gone))
})
