import assert from 'node:assert/strict'
import { test } from 'node:test'
import { runStory } from '../../device-sim/story.ts'
import { LiveGateway } from '../harness/live-gateway.ts'

test('a story that is stopped ends at once, says where it was and leaves no device connected', async () => {
  await using live = await LiveGateway.start()
  const stop = new AbortController()
  const options = { server: live.server, devices: 4, clock: () => new Date(), onStep: () => undefined }
  const onEnrolled = (): void => stop.abort()
  await assert.rejects(runStory({ ...options, onEnrolled, stop: stop.signal }), {
    name: 'StoryStopped',
    message: 'while: the fleet enrolls over EST and connects; 0 of 11 steps were observed',
  })
})
