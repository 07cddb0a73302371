import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { FleetServer } from '../../device-sim/fleet.ts'
import { runStory, type StepResult } from '../../device-sim/story.ts'
import { LiveGateway } from '../harness/live-gateway.ts'

async function story(server: FleetServer, patienceMs = 2_000): Promise<StepResult[]> {
  const told: StepResult[] = []
  const options = { server, devices: 4, clock: () => new Date(), onEnrolled: () => undefined, patienceMs }
  await using told4 = await runStory({ ...options, onStep: (step) => told.push(step) })
  assert.deepEqual(told4.steps, told)
  return told
}
test('what does not hold is found out by its step: no token, a policy that allows everything, a revocation only claimed', async () => {
  await using live = await LiveGateway.start()
  const { server } = live
  const poor = { ...server.operator, createToken: () => Promise.reject(new Error('no token today')) }
  assert.deepEqual(
    (await story({ ...server, operator: poor })).map(({ name, ok, detail }) => [name, ok, detail]),
    [['fleet-enrolled', false, 'no token today']],
  )
  const all = { publish: ['#'], subscribe: ['#'] }
  await live.admin.applyPolicy({ policies: [{ name: 'everything', match: {}, allow: all, deny: {} }] })
  const lying = { ...server.operator, revoke: async () => ({ inForce: true, confirmedMs: 1 }) }
  const steps = await story({ ...server, operator: lying })
  assert.deepEqual(
    steps.filter(({ ok }) => !ok).map(({ name }) => name),
    ['foreign-topic-refused', 'stolen-camera-cut', 'stolen-camera-stays-out'],
  )
})
