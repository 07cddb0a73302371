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
  environment: z.record(z.string(), z.string()).default({}),
  ports: z.array(z.string()).default([]),
  volumes: z.array(z.string()),
  profiles: z.array(z.string()).optional(),
})
const compose = z.looseObject({ services: z.record(z.string(), service), volumes: z.record(z.string(), z.null()) })

// Compose merges `<<`, the YAML of this project does not; so the test reads what would be merged by its name.
const text = read('docker-compose.yml').replaceAll(/^( +)<<: \*(hardened|fleetgate)\n/gm, '$1$2: *$2\n')
const { services, volumes } = parseYaml(text, compose, 'docker-compose.yml', 'config_invalid')
const own = Object.fromEntries(Object.entries(services).filter(([, { fleetgate }]) => fleetgate !== undefined))
const { prometheus } = services
const mountsOf = (name: string): { from: string; to: string; readOnly: boolean }[] =>
  services[name]!.volumes.map((mount) => {
    const [from, to, mode] = mount.split(':')
    return { from: from!, to: to!, readOnly: mode === 'ro' }
  })

test('every setting of every service is accepted by the schema', () => {
  for (const { environment } of Object.values(services)) loadConfig({ env: environment })
  assert.equal(loadConfig({ env: services.broker!.environment }).broker.feed, 'enroll:9444')
})

test('devices reach EST and MQTT, admin API and Prometheus are published on loopback, trust feed and metrics not at all', () => {
  const published = Object.values(services).flatMap(({ ports }) => ports)
  assert.deepEqual(published, ['8443:8443', '127.0.0.1:9443:9443', '8883:8883', '127.0.0.1:9090:9090'])
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

test('every service of ours runs from files that exist and are in the image', () => {
  const ignored = read('.dockerignore')
  assert.deepEqual(Object.keys(own), ['enroll', 'broker', 'device-sim'])
  for (const [name, { command, fleetgate }] of Object.entries(own)) {
    assert.ok(existsSync(join(root, command[0]!)), command[0])
    assert.ok(ignored.includes(`!${command[0]!.split('/')[0]}\n`), name)
    assert.equal((fleetgate as Record<string, unknown>).image, 'fleetgate')
  }
})

test('every service runs hardened', () => {
  for (const { hardened, fleetgate } of Object.values(services)) {
    const options = hardened ?? (fleetgate as Record<string, unknown>).hardened
    const { read_only, cap_drop, security_opt, restart } = options as Record<string, unknown>
    assert.deepEqual(
      [read_only, cap_drop, security_opt, restart],
      [true, ['ALL'], ['no-new-privileges:true'], 'unless-stopped'],
    )
  }
})

test('Prometheus comes with its profile alone, of a version that is named, and scrapes where the metrics are', () => {
  assert.deepEqual(prometheus!.profiles, ['metrics'])
  assert.match(String(prometheus!.image), /^prom\/prometheus:v\d+\.\d+\.\d+$/)
  assert.equal(prometheus!.build, undefined)
  assert.deepEqual(mountsOf('prometheus'), [
    { from: './deploy/prometheus', to: '/etc/prometheus', readOnly: true },
    { from: 'prometheus-data', to: '/prometheus', readOnly: false },
  ])
  const scraped = [...read('deploy/prometheus/prometheus.yml').matchAll(/^ +- targets: \["(.*)"\]$/gm)].map(
    ([, at]) => at,
  )
  const offered = ['broker', 'enroll'].map((name) => {
    const listen = services[name]!.environment[`FLEETGATE_${name.toUpperCase()}__METRICS`]
    return listen?.replace('0.0.0.0', name)
  })
  assert.deepEqual(scraped, offered)
})

test('every volume that is mounted is declared; those of ours on a folder that the image makes', () => {
  const mounts = Object.keys(services).flatMap(mountsOf)
  const named = new Set(mounts.map(({ from }) => from).filter((from) => !from.startsWith('./')))
  assert.deepEqual([...named].sort(), Object.keys(volumes).sort())
  for (const { to } of Object.keys(own).flatMap(mountsOf))
    assert.match(read('Dockerfile'), new RegExp(`install -d -o node .*\\${to}\\b`))
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
