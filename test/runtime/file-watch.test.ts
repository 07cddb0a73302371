import assert from 'node:assert/strict'
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { FileWatch } from '../../runtime/file-watch.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-watch-'))
after(() => rmSync(folder, { recursive: true }))
const at = (name: string): string => join(folder, name)

test('a file that is new, written, put in place by rename or comes to be is told of once it rests', async () => {
  let told = (): void => {}
  const next = (): Promise<void> =>
    new Promise((resolve) => {
      told = resolve
    })
  writeFileSync(at('one'), 'a')
  using watch = new FileWatch(20, () => told())
  const first = next()
  watch.watch([at('one'), at('two')])
  // It may have changed between its reading and the first look.
  await first
  for (const change of [
    () => writeFileSync(at('one'), `other ${performance.now()}`),
    () => {
      writeFileSync(at('new'), `again another ${performance.now()}`)
      renameSync(at('new'), at('one'))
    },
    () => writeFileSync(at('two'), `there ${performance.now()}`),
  ]) {
    const heard = next()
    const changing = setInterval(change, 100)
    await heard
    clearInterval(changing)
  }
})

test('a file that is watched no more is not told of', async () => {
  for (const name of ['left', 'kept']) writeFileSync(at(name), 'a')
  const heard: string[] = []
  const { promise, resolve } = Promise.withResolvers<void>()
  using left = new FileWatch(20, () => heard.push('left'))
  using kept = new FileWatch(20, resolve)
  left.watch([at('left'), at('kept')])
  left.watch([])
  kept.watch([at('kept')])
  // Its first look may come after a write that follows at once.
  const writing = setInterval(() => {
    for (const name of ['left', 'kept']) writeFileSync(at(name), `other ${performance.now()}`)
  }, 100)
  await promise
  clearInterval(writing)
  assert.deepEqual(heard, [])
})
