import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { eventTopic, eventTypes, fleetEvent, presence, presenceTopic } from '../../contract/fleet-events.ts'
import { policyDocument } from '../../contract/policy-document.ts'
import { compilePolicy } from '../../contract/policy-matcher.ts'
import { reviewPolicy } from '../../contract/policy-review.ts'
import { parseYaml } from '../../runtime/yaml.ts'

const docs = join(dirname(import.meta.dirname), '..', 'docs')
const page = readFileSync(join(docs, 'events.md'), 'utf8')

test('the examples on the page are as the schema says', () => {
  const { events, presences } = JSON.parse(readFileSync(join(docs, 'events', 'examples.json'), 'utf8'))
  assert.ok(events.length > 8 && presences.length > 1)
  for (const event of events) assert.deepEqual(fleetEvent.parse(event), event)
  for (const one of presences) assert.deepEqual(presence.parse(one), one)
})

test('the policy on the page opens presence and every event to services, and to nobody else', () => {
  const text = /```yaml\n# policy\.yaml\n([\s\S]*?)```/.exec(page)![1]!
  const document = parseYaml(text, policyDocument, 'docs/events.md', 'policy_invalid')
  assert.deepEqual(reviewPolicy(document, { profiles: ['sensor', 'camera', 'service'] }), [])
  const [service, sensor] = ['service', 'sensor'].map((profile) =>
    compilePolicy(document, { 'device.profile': [profile] }),
  )
  for (const topic of [presenceTopic('cam-7'), ...eventTypes.map(eventTopic)]) {
    assert.ok(service!.allowsDelivery(topic), topic)
    assert.ok(!sensor!.allowsDelivery(topic), topic)
  }
})
