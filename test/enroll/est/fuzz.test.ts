import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { fuzzEst, type Sent, send, startService } from '../../fuzz/est.ts'

type Kept = { seeds: number[]; cases: (Omit<Sent, 'body'> & { body: string; why: string })[] }
const kept: Kept = JSON.parse(readFileSync(new URL('../../vectors/est/fuzz.json', import.meta.url), 'utf8'))

test('no mutated request is answered 500 or stops the service; the seeds and cases that are kept (npm run fuzz -- est)', async () => {
  const service = await startService()
  await using _fleet = service.fleet
  for (const { why, body, ...request } of kept.cases) {
    const answer = await send(service, { ...request, body: Buffer.from(body, 'base64') })
    assert.doesNotMatch(answer, /^5/, why)
  }
  for (const seed of kept.seeds) {
    const { requests } = await fuzzEst(service, { runs: 12, seconds: 100, seed })
    assert.ok(requests >= 20)
  }
})
