import assert from 'node:assert/strict'
import { BlockList } from 'node:net'
import { test } from 'node:test'
import fc from 'fast-check'
import { isWithin, parseNetwork } from '../../contract/networks.ts'

test('what is no network, or has bits behind its prefix, is refused', () => {
  for (const text of [
    '10.0.0.0',
    '10.0.0.0/33',
    '10.0.0.1/8',
    '010.0.0.0/8',
    '10.0.0/8',
    '256.0.0.0/8',
    '::/129',
    '1:2:3:4:5:6:7:8:9/64',
    '1:2:3:4:5:6:7::8/128',
    '::1::/64',
    'fe80::1%eth0/64',
    '12345::/16',
    'fe80::1/64',
    '',
    '/8',
    ' 10.0.0.0/8',
  ]) {
    assert.equal(parseNetwork(text), undefined, text)
  }
})

test('an address is in the networks that node:net says it is in', () => {
  const octet = fc.oneof(fc.constantFrom(0, 10, 127, 255), fc.nat(255))
  const v4 = fc.tuple(octet, octet, octet, octet).map((octets) => octets.join('.'))
  const group = fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, { weight: 2, arbitrary: fc.nat(0xffff) })
  const v6 = fc
    .array(group, { minLength: 8, maxLength: 8 })
    .map((groups) => groups.map((one) => one.toString(16)).join(':'))
    .chain((text) => fc.constantFrom(text, text.replace(/\b0(:0)+\b/, ':').replace(/:{3,}/, '::')))
  const asked = fc.oneof(v4, v6)
  fc.assert(
    fc.property(asked, asked, fc.nat(128), (address, base, length) => {
      const family = base.includes(':') ? 'ipv6' : 'ipv4'
      const bits = Math.min(length, family === 'ipv6' ? 128 : 32)
      const network = parseNetwork(`${base}/${bits}`)
      if (network === undefined) return
      const list = new BlockList()
      list.addSubnet(base, bits, family)
      const own = address.includes(':') ? 'ipv6' : 'ipv4'
      assert.equal(isWithin(address, network), own === family && list.check(address, own), `${address} ${base}/${bits}`)
    }),
    { numRuns: 2_000 },
  )
})

test('an IPv4 address in the clothes of IPv6 is the IPv4 address, and what is no address is nowhere', () => {
  const network = parseNetwork('10.0.0.0/8')!
  assert.equal(isWithin('::ffff:10.1.2.3', network), true)
  assert.equal(isWithin('::ffff:11.1.2.3', network), false)
  for (const text of ['unknown', '', '10.0.0', '::10.0.0.1']) assert.equal(isWithin(text, network), false, text)
})
