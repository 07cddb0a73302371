import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { createLog } from '../../runtime/log.ts'
import { createProbes, type Probes, type Readiness, seldom } from '../../runtime/probes.ts'

let probes: Probes
let readiness: Readiness = { feed: 'not yet', store: undefined }
let looks = 0
before(async () => {
  probes = await createProbes({
    listen: '127.0.0.1:0',
    metrics: async () => {
      if (looks > 0) throw new Error('the store is away')
      return 'a 1\n'
    },
    ready: seldom(async () => {
      looks++
      return readiness
    }),
    log: createLog('probes', 'silent'),
  })
})
after(() => probes[Symbol.asyncDispose]())

async function ask(path: string, method = 'GET'): Promise<[number, string]> {
  const answer = await fetch(`${probes.url}${path}`, { method })
  return [answer.status, await answer.text()]
}

test('metrics and liveness are told to whoever asks, and nothing else is there', async () => {
  assert.deepEqual(await ask('/metrics'), [200, 'a 1\n'])
  assert.deepEqual(await ask('/livez?x=1'), [200, 'ok\n'])
  assert.equal((await ask('/'))[0], 404)
  assert.equal((await ask('/__proto__'))[0], 404)
  assert.equal((await ask('/metrics', 'POST'))[0], 405)
})

test('readiness names the part that is not ready, and is looked at once however many ask', async () => {
  const answers = await Promise.all(Array.from({ length: 5 }, () => ask('/readyz')))
  for (const answer of answers) assert.deepEqual(answer, [503, 'feed: not yet\nstore: ok\n'])
  assert.equal(looks, 1)
  readiness = {}
  assert.equal((await ask('/readyz'))[0], 503, 'for a second')
  assert.equal(looks, 1)
})

test('metrics that cannot be read are a failure, and the process lives on', async () => {
  assert.deepEqual(await ask('/metrics'), [500, 'the log has more\n'])
  assert.equal((await ask('/livez'))[0], 200)
})
