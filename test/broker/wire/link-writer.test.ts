import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Duplex } from 'node:stream'
import { test } from 'node:test'
import { LinkWriter } from '../../../broker/wire/link-writer.ts'

/** Takes a write only when it is told to. */
class Stalling extends Duplex {
  readonly taken: Buffer[] = []
  #done: (() => void) | undefined

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.taken.push(chunk)
    this.#done = done
    this.emit('taken')
  }

  go(): void {
    this.#done!()
  }
}

test('a message that waits for a slow reader does not keep what it was read from', async () => {
  const socket = new Stalling()
  const writer = new LinkWriter(socket, () => undefined)
  const chunk = Buffer.alloc(65_536, 'x')
  writer.push(chunk.subarray(0, 100))
  await once(socket, 'taken')
  writer.push(chunk.subarray(100, 200))
  writer.flush()
  socket.go()
  const [first, second] = socket.taken
  assert.equal(first?.buffer, chunk.buffer, 'what goes out at once is not copied')
  assert.deepEqual(second, chunk.subarray(100, 200))
  assert.notEqual(second?.buffer, chunk.buffer)
})
