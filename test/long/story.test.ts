import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import type { FleetServer } from '../../device-sim/fleet.ts'
import { runStory, type StepResult } from '../../device-sim/story.ts'
import { LiveGateway } from '../harness/live-gateway.ts'

let live: LiveGateway
before(async () => {
  live = await LiveGateway.start()
})
after(() => live[Symbol.asyncDispose]())

async function story(server: FleetServer): Promise<StepResult[]> {
  const told: StepResult[] = []
  const options = { server, devices: 4, clock: () => new Date(), onEnrolled: () => undefined }
  await using told4 = await runStory({ ...options, onStep: (step) => told.push(step) })
  assert.deepEqual(told4.steps, told)
  return told
}

test('what does not hold is found out by its step: no token, a policy that allows everything, a revocation only claimed', async () => {
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

test('a story that is stopped ends at once, says where it was and leaves no device connected', async () => {
  const stop = new AbortController()
  const options = { server: live.server, devices: 4, clock: () => new Date(), onStep: () => undefined }
  const onEnrolled = (): void => stop.abort()
  await assert.rejects(runStory({ ...options, onEnrolled, stop: stop.signal }), {
    name: 'StoryStopped',
    message: 'while: the fleet enrolls over EST and connects; 0 of 11 steps were observed',
  })
})
