/** The process of a broker is killed in the middle of everything; `npm run crash` does it twenty times. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { killAgainAndAgain, policy } from '../crash/kill.ts'
import { BrokerHarness } from '../harness/broker.ts'

test('what was acknowledged is delivered after SIGKILL, QoS 2 once', async () => {
  await using harness = await BrokerHarness.start({ policy })
  const { met } = await killAgainAndAgain(harness, { rounds: 2, seed: 1 })
  for (const what of ['inbound QoS 2 half-way', 'outbound QoS 2 without an answer', 'outbound QoS 1 sent again']) {
    assert.ok(met.has(what), `${what}: not met`)
  }
})
