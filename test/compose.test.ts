import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { z } from 'zod'
import { loadConfig } from '../runtime/config.ts'
import { parseYaml } from '../runtime/yaml.ts'

const root = dirname(import.meta.dirname)
const read = (path: string): string => readFileSync(join(root, path), 'utf8')

const service = z.looseObject({
  command: z.array(z.string()),
  environment: z.record(z.string(), z.string()),
  ports: z.array(z.string()).default([]),
  volumes: z.array(z.string()),
  profiles: z.array(z.string()).optional(),
})
const compose = z.looseObject({ services: z.record(z.string(), service), volumes: z.record(z.string(), z.null()) })

// Compose merges `<<`, the YAML of this project does not; so the test does what Compose does.
const text = read('docker-compose.yml').replaceAll(/^ {4}<<: \*hardened\n/gm, '    hardened: *hardened\n')
const { services, volumes } = parseYaml(text, compose, 'docker-compose.yml', 'config_invalid')
const mountsOf = (name: string): { from: string; to: string; readOnly: boolean }[] =>
  services[name]!.volumes.map((mount) => {
    const [from, to, mode] = mount.split(':')
    return { from: from!, to: to!, readOnly: mode === 'ro' }
  })

test('every setting of every service is accepted by the schema', () => {
  for (const { environment } of Object.values(services)) loadConfig({ env: environment })
  assert.equal(loadConfig({ env: services.broker!.environment }).broker.feed, 'enroll:9444')
})

test('devices reach EST and MQTT, the admin API is published on loopback, the trust feed not at all', () => {
  const published = Object.values(services).flatMap(({ ports }) => ports)
  assert.deepEqual(published, ['8443:8443', '127.0.0.1:9443:9443', '8883:8883'])
})

test('the broker mounts its own data and its own credential, nothing of the CA', () => {
  assert.deepEqual(mountsOf('broker'), [
    { from: 'broker-data', to: '/data/broker', readOnly: false },
    { from: 'broker-credentials', to: '/data/services/broker', readOnly: true },
  ])
  const shared = mountsOf('enroll').filter(({ from }) => mountsOf('broker').some((mount) => mount.from === from))
  assert.deepEqual(shared, [{ from: 'broker-credentials', to: '/data/services/broker', readOnly: false }])
})

test('the device has nothing of the servers, and runs in the demo only', () => {
  assert.deepEqual(
    mountsOf('device-sim').map(({ from }) => from),
    ['device-data'],
  )
  assert.deepEqual(services['device-sim']?.profiles, ['demo'])
})

test('every service runs hardened, from files that exist and are in the image', () => {
  const ignored = read('.dockerignore')
  for (const [name, { command, hardened }] of Object.entries(services)) {
    assert.ok(existsSync(join(root, command[0]!)), command[0])
    assert.ok(ignored.includes(`!${command[0]!.split('/')[0]}\n`), name)
    const { read_only, cap_drop, security_opt, restart } = hardened as Record<string, unknown>
    assert.deepEqual(
      [read_only, cap_drop, security_opt, restart],
      [true, ['ALL'], ['no-new-privileges:true'], 'unless-stopped'],
    )
  }
})

test('every volume that is mounted is declared, on a folder that the image makes', () => {
  const mounts = Object.keys(services).flatMap(mountsOf)
  assert.deepEqual([...new Set(mounts.map(({ from }) => from))].sort(), Object.keys(volumes).sort())
  for (const { to } of mounts) assert.match(read('Dockerfile'), new RegExp(`install -d -o node .*\\${to}\\b`))
})

test('the image runs as nobody special, with what the lock file says and what it needs alone', () => {
  const image = read('Dockerfile')
  assert.match(image, /^USER node$/m)
  assert.match(image, /npm ci --omit=dev/)
  assert.match(image, /^HEALTHCHECK /m)
  assert.match(image, /^EXPOSE 8443 8883 9443$/m)
  assert.match(read('.dockerignore'), /^\*$/m)
  const { engines } = JSON.parse(read('package.json'))
  assert.ok([...image.matchAll(/^FROM node:(\d+)-slim/gm)].every(([, major]) => `>=${major}` === engines.node))
})
