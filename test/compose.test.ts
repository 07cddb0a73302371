import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { loadConfig } from '../runtime/config.ts'
import { type ComposeService, mountsOf, readCompose, readOverlay, root } from './harness/compose.ts'

const read = (path: string): string => readFileSync(join(root, path), 'utf8')
const { services, volumes, secrets } = readCompose()
const { init, enroll, broker, 'device-sim': device, prometheus } = services as Record<string, ComposeService>
const own = Object.entries(services).filter(([, { image }]) => image === 'fleetgate')
const overlay = readOverlay('deploy/compose.passphrase.yml')

test('every setting of every service is accepted by the schema', () => {
  for (const { environment } of [...Object.values(services), ...Object.values(overlay.services)])
    loadConfig({ env: environment })
  assert.equal(loadConfig({ env: broker!.environment }).broker.feed, 'enroll:9444')
})

test('devices reach EST and MQTT, admin API and Prometheus are published on loopback, trust feed and metrics not at all', () => {
  const published = Object.values(services).flatMap(({ ports }) => ports)
  assert.deepEqual(published, ['8443:8443', '127.0.0.1:9443:9443', '8883:8883', '127.0.0.1:9090:9090'])
})

test('init makes everything before anybody serves, with no network, for the names that enroll then has', () => {
  assert.deepEqual([init!.network_mode, init!.restart, init!.ports], ['none', 'no', []])
  assert.deepEqual(init!.command.slice(1, 2), ['init'])
  assert.deepEqual(mountsOf(init!), mountsOf(enroll!))
  const namesOf = ({ hostname, environment }: ComposeService) => [hostname, environment.FLEETGATE_NAMES]
  assert.deepEqual(namesOf(init!), namesOf(enroll!))
  const completed = { condition: 'service_completed_successfully' }
  assert.deepEqual(enroll!.depends_on, { init: completed })
  assert.deepEqual(broker!.depends_on, { init: completed, enroll: { condition: 'service_healthy' } })
})

test('the broker mounts its own data and its own credential, nothing of the CA', () => {
  assert.deepEqual(mountsOf(broker!), [
    { from: 'broker-data', to: '/data/broker', readOnly: false },
    { from: 'broker-credentials', to: '/data/services/broker', readOnly: true },
  ])
  const shared = mountsOf(enroll!).filter(({ from }) => mountsOf(broker!).some((mount) => mount.from === from))
  assert.deepEqual(shared, [{ from: 'broker-credentials', to: '/data/services/broker', readOnly: false }])
})

test('the device has nothing of the servers, and runs in the demo only', () => {
  assert.deepEqual(
    mountsOf(device!).map(({ from }) => from),
    ['device-data'],
  )
  assert.deepEqual([device!.profiles, device!.depends_on], [['demo'], { broker: { condition: 'service_healthy' } }])
})

test('a secret is a file that is mounted for who needs it, and no value of an environment', () => {
  assert.deepEqual(device!.secrets, ['device-token'])
  assert.equal(device!.environment.DEVICE_SIM_TOKEN_FILE, '/run/secrets/device-token')
  const values = Object.values(services).flatMap(({ environment }) => Object.keys(environment))
  assert.deepEqual(
    values.filter((name) => /token|pass|secret|key/i.test(name) && !name.endsWith('_FILE')),
    [],
  )
  assert.deepEqual(Object.keys(secrets), ['device-token'])
  // Neither in the repository nor in the image.
  assert.match(read('.gitignore'), /^device\.token$/m)
})

test('the passphrase of the keys is for init, enroll and broker, from a file that has to be named', () => {
  const wanted = {
    environment: { FLEETGATE_KEYS__PASSPHRASE_FILE: '/run/secrets/keys-passphrase' },
    secrets: ['keys-passphrase'],
  }
  assert.deepEqual(overlay.services, { init: wanted, enroll: wanted, broker: wanted })
  assert.match(read('deploy/compose.passphrase.yml'), /file: \$\{FLEETGATE_PASSPHRASE_FILE:\?/)
})

test('every service of ours runs from files that exist and are in the image', () => {
  const ignored = read('.dockerignore')
  assert.deepEqual(
    own.map(([name]) => name),
    ['init', 'enroll', 'broker', 'device-sim'],
  )
  for (const [name, { command, build }] of own) {
    assert.ok(existsSync(join(root, command[0]!)), command[0])
    assert.ok(ignored.includes(`!${command[0]!.split('/')[0]}\n`), name)
    assert.equal(build, '.')
  }
})

test('every service runs hardened, as a user with a number, and is asked whether it is well', () => {
  for (const [name, one] of Object.entries(services)) {
    const { init, read_only, tmpfs, cap_drop, security_opt, user } = one
    assert.deepEqual(
      { init, read_only, tmpfs, cap_drop, security_opt },
      {
        init: true,
        read_only: true,
        tmpfs: ['/tmp'],
        cap_drop: ['ALL'],
        security_opt: ['no-new-privileges:true'],
      },
    )
    assert.match(user, /^[1-9]\d*:[1-9]\d*$/)
    const isServer = one.ports.length > 0
    assert.equal('test' in one.healthcheck, isServer, name)
    assert.equal(one.restart, name === 'init' ? 'no' : 'unless-stopped')
  }
})

test('nothing of the host is mounted but the rules of Prometheus, read-only', () => {
  const ofHost = Object.values(services)
    .flatMap(mountsOf)
    .filter(({ from }) => !Object.hasOwn(volumes, from))
  assert.deepEqual(ofHost, [{ from: './deploy/prometheus', to: '/etc/prometheus', readOnly: true }])
})

test('Prometheus comes with its profile alone, of a version that is named, and scrapes where the metrics are', () => {
  assert.deepEqual(prometheus!.profiles, ['metrics'])
  assert.match(prometheus!.image, /^prom\/prometheus:v\d+\.\d+\.\d+$/)
  assert.equal(prometheus!.build, undefined)
  const scraped = [...read('deploy/prometheus/prometheus.yml').matchAll(/^ +- targets: \["(.*)"\]$/gm)].map(
    ([, at]) => at,
  )
  const offered = ['broker', 'enroll'].map((name) => {
    const listen = services[name]!.environment[`FLEETGATE_${name.toUpperCase()}__METRICS`]
    return listen?.replace('0.0.0.0', name)
  })
  assert.deepEqual(scraped, offered)
})

test('every volume that is declared is mounted; those of ours on a folder that the image makes', () => {
  const mounts = Object.values(services).flatMap(mountsOf)
  const named = new Set(mounts.map(({ from }) => from).filter((from) => !from.startsWith('./')))
  assert.deepEqual([...named].sort(), Object.keys(volumes).sort())
  for (const { to } of own.flatMap(([, one]) => mountsOf(one)))
    assert.match(read('Dockerfile'), new RegExp(`install -d -o 1000 .*\\${to}\\b`))
})

test('the image runs as nobody special, on the Node that tests run with, with what the lock file says and it needs alone', () => {
  const image = read('Dockerfile')
  assert.match(image, /^USER 1000:1000$/m)
  for (const [, { user }] of own) assert.equal(user, '1000:1000')
  assert.match(image, /npm ci --omit=dev --ignore-scripts/)
  assert.match(image, /^HEALTHCHECK /m)
  assert.match(image, /^EXPOSE 8443 8883 9443$/m)
  assert.match(read('.dockerignore'), /^\*$/m)
  const { devDependencies } = JSON.parse(read('package.json'))
  const bases = [...image.matchAll(/^FROM (\S+)/gm)].map(([, base]) => base)
  assert.deepEqual([...new Set(bases)], [`node:${devDependencies.node}-slim`])
  assert.equal(bases.length, 2)
})
