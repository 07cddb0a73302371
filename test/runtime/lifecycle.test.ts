import assert from 'node:assert/strict'
import { type ChildProcess, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { test } from 'node:test'
import type { Failed, Ready } from '../../runtime/lifecycle.ts'
import { endsWithTest } from '../harness/ends-with-test.ts'

const entry = join(import.meta.dirname, 'a-service.ts')

class Child {
  readonly process: ChildProcess
  readonly ended: Promise<{ code: number | null; messages: (Ready | Failed)[]; text: string }>
  #text = ''
  #changed: (() => void) | undefined

  constructor(behaviour: string, supervised = false) {
    const messages: (Ready | Failed)[] = []
    this.process = endsWithTest(
      supervised
        ? fork(entry, [behaviour], { stdio: ['ignore', 'ignore', 'pipe', 'ipc'], execArgv: [] })
        : spawn(process.execPath, [entry, behaviour], { stdio: ['ignore', 'ignore', 'pipe'] }),
    )
    this.process.on('message', (message) => messages.push(message as Ready | Failed))
    this.process.stderr!.setEncoding('utf8').on('data', (chunk: string) => {
      this.#text += chunk
      this.#changed?.()
    })
    // Not 'close': it does not come after disconnect().
    this.ended = Promise.all([once(this.process, 'exit'), once(this.process.stderr!, 'end')]).then(([[code]]) => ({
      code,
      messages,
      text: this.#text,
    }))
  }

  async says(words: string): Promise<void> {
    let hasEnded = false
    while (!this.#text.includes(words)) {
      assert.ok(!hasEnded, `it ended and never said ${words}: ${this.#text}`)
      const more = new Promise<boolean>((resolve) => {
        this.#changed = () => resolve(false)
      })
      hasEnded = await Promise.race([more, this.ended.then(() => true)])
    }
  }
}

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  test(`${signal} drains the service and exits 0`, async () => {
    const child = new Child('well')
    await child.says('"ready"')
    child.process.kill(signal)
    const { code, text } = await child.ended
    assert.equal(code, 0)
    assert.match(text, /drained/)
    assert.match(text, /"event":"service\.stopped"/)
  })
}

test('under a supervisor it tells its endpoints, leaves Ctrl-C to it and stops on SIGTERM', async () => {
  const child = new Child('well', true)
  await child.says('"ready"')
  child.process.kill('SIGINT')
  child.process.kill('SIGTERM')
  const { code, messages, text } = await child.ended
  assert.equal(code, 0)
  assert.deepEqual(messages, [{ kind: 'ready', endpoints: { est: 'https://localhost:1' } }])
  assert.match(text, /"reason":"SIGTERM"/)
})

test('SIGHUP reloads a service that can be, and it runs on', async () => {
  const child = new Child('changeable')
  await child.says('"ready"')
  child.process.kill('SIGHUP')
  await child.says('reloaded')
  child.process.kill('SIGTERM')
  assert.equal((await child.ended).code, 0)
})

test('a supervised service ends when its supervisor is gone', async () => {
  const child = new Child('well', true)
  await child.says('"ready"')
  child.process.disconnect()
  const { code, text } = await child.ended
  assert.equal(code, 0)
  assert.match(text, /supervisor gone/)
})

test('a start that the operator has to mend is one sentence and exit code 2', async () => {
  const supervised = await new Child('misconfigured', true).ended
  assert.equal(supervised.code, 2)
  assert.deepEqual(supervised.messages, [
    { kind: 'failed', code: 'config_invalid', message: 'broker.listen: host:port is wanted' },
  ])
  assert.equal(supervised.text, '', 'the supervisor is the one to say it')
  const { code, text } = await new Child('misconfigured').ended
  assert.equal(code, 2)
  assert.equal(text.trim().split('\n').length, 1)
  assert.equal(JSON.parse(text).reason, 'config_invalid')
})

test('a start that fails for an unknown reason is exit code 1, with the stack in the log', async () => {
  const { code, messages, text } = await new Child('broken', true).ended
  assert.equal(code, 1)
  assert.deepEqual(
    messages.map((message) => message.kind === 'failed' && message.code),
    ['internal'],
  )
  assert.match(text, /TypeError: not a function.*a-service\.ts/)
})

test('SIGTERM during a start ends it once the start is through', async () => {
  const child = new Child('slow-start')
  await child.says('starting')
  child.process.kill('SIGTERM')
  const { code, text } = await child.ended
  assert.equal(code, 0)
  assert.match(text, /drained/)
})

test('an end that fails is exit code 1 and says so', async () => {
  const child = new Child('broken-end')
  await child.says('"ready"')
  child.process.kill('SIGTERM')
  const { code, text } = await child.ended
  assert.equal(code, 1)
  assert.match(text, /cannot close/)
})
