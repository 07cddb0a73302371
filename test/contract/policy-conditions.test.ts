import assert from 'node:assert/strict'
import { test } from 'node:test'
import { conditionFault, connectConditions } from '../../contract/policy-conditions.ts'

// 2026-03-02 is a Monday.
const at = (time: string): Date => new Date(`2026-03-${time}:00Z`)
const holds = (conditions: object, now: Date, remoteAddress = '10.0.0.1'): boolean =>
  conditionFault(connectConditions.parse(conditions), { now, remoteAddress }) === undefined

test('a window is open on its days from its beginning until just before its end, in UTC', () => {
  const office = { times: [{ days: ['mon', 'tue'], from: '08:30', to: '17:00' }] }
  for (const open of ['02T08:30', '02T16:59', '03T12:00']) assert.equal(holds(office, at(open)), true, open)
  for (const shut of ['02T08:29', '02T17:00', '04T12:00', '01T12:00'])
    assert.equal(holds(office, at(shut)), false, shut)
  assert.equal(holds({ times: [{ days: ['mon'] }] }, at('02T23:59')), true)
  assert.equal(holds({ times: [{ days: ['mon'] }] }, at('03T00:00')), false)
})

test('a window that ends before it begins goes on into the next day', () => {
  const night = { times: [{ days: ['sun'], from: '22:00', to: '06:00' }] }
  for (const open of ['01T22:00', '01T23:59', '02T00:00', '02T05:59']) assert.equal(holds(night, at(open)), true, open)
  for (const shut of ['01T05:00', '01T21:59', '02T06:00', '02T22:00']) assert.equal(holds(night, at(shut)), false, shut)
})

test('one window and one network are enough, and of both kinds one has to hold', () => {
  const both = { times: [{ to: '06:00' }, { from: '20:00' }], networks: ['192.168.0.0/16', '2001:db8::/32'] }
  assert.equal(holds(both, at('02T05:00'), '192.168.7.1'), true)
  assert.equal(holds(both, at('02T21:00'), '2001:db8:1::1'), true)
  assert.equal(holds(both, at('02T12:00'), '192.168.7.1'), false)
  assert.equal(holds(both, at('02T05:00'), '10.0.0.1'), false)
})

test('conditions that can never hold, or say nothing, are refused', () => {
  for (const bad of [
    {},
    { times: [] },
    { networks: [] },
    { times: [{ from: '08:00', to: '08:00' }] },
    { times: [{ from: '24:00', to: '08:00' }] },
    { times: [{ from: '8:00' }] },
    { times: [{ from: '25:00' }] },
    { times: [{ days: ['monday'] }] },
    { networks: ['10.0.0.1'] },
  ]) {
    assert.equal(connectConditions.safeParse(bad).success, false, JSON.stringify(bad))
  }
})
