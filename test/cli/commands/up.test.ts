import assert from 'node:assert/strict'
import { test } from 'node:test'
import { welcome } from '../../../cli/commands/up.ts'

// That it runs, and how it ends: test/long/up.test.ts.
test('the lines to paste name the ports and paths of this gateway, quoted where a shell needs it', () => {
  const endpoints = {
    est: 'https://localhost:8443',
    mqtts: 'mqtts://localhost:8883',
    admin: 'https://127.0.0.1:9443',
    rootFingerprint: 'ab',
    rootCertificate: '/srv/my data/root.crt',
    operatorCertificate: '/x',
    operatorKey: '/y',
  }
  const text = welcome(endpoints, '/srv/my data', false)
  assert.match(
    text,
    /TOKEN=\$\(npx fleetgate token create --device cam-1 --profile camera --quiet --data '\/srv\/my data'\)\n/,
  )
  assert.match(
    text,
    /--cacert '\/srv\/my data\/root.crt' .* https:\/\/localhost:8443\/\.well-known\/est\/simpleenroll\n/,
  )
  assert.match(text, /-h localhost -p 8883 -i cam-1/)
  assert.doesNotMatch(welcome(endpoints, './data', false), /--data /)
})
