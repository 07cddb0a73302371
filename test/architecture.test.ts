/** The house's rules (docs/architecture.md), held by reading the import lines of every production file. */
import assert from 'node:assert/strict'
import { existsSync, globSync, readFileSync } from 'node:fs'
import { basename, dirname, join, posix } from 'node:path'
import { test } from 'node:test'
import { filesOf, rows } from './together/together.ts'

const root = dirname(import.meta.dirname)
const folders = ['contract', 'runtime', 'pki', 'enroll', 'broker', 'device-sim', 'cli', 'bin']
const production = folders.flatMap((folder) => globSync(`${folder}/**/*.{ts,js}`, { cwd: root }))
const everything = [...production, ...globSync('{test,bench,docs}/**/*.ts', { cwd: root })]

const sourceOf = new Map(everything.map((file) => [file, readFileSync(join(root, file), 'utf8')]))
const read = (file: string): string => sourceOf.get(file)!

/** What a file imports: paths from the root for our own files, `npm:name` for packages, `node:fs` as it is. */
const importsOf = new Map(
  everything.map((file) => [
    file,
    [...read(file).matchAll(/^(?:import|export)\s(?:[^'";]*?\sfrom\s)?'([^'\n]+)'|\bimport\('([^'\n]+)'\)/gm)].map(
      (found) => {
        const target = (found[1] ?? found[2])!
        if (target.startsWith('.')) return posix.normalize(posix.join(posix.dirname(file), target))
        return target.startsWith('node:') ? target : `npm:${target}`
      },
    ),
  ]),
)
const isWithin = (path: string, place: string): boolean => path === place || path.startsWith(`${place}/`)
const packagesOf = (file: string): string[] =>
  importsOf
    .get(file)!
    .filter((target) => target.startsWith('npm:'))
    .map((target) => /^npm:((?:@[^/]+\/)?[^/]+)/.exec(target)![1]!)

const browser = 'it runs in the browser and in every process'
const noDomain = 'it knows no domain'
const pure = 'certificates are functions of their arguments: no service, no socket, no log'
const relyingParty = 'the signer must not depend on its relying party'
const trust = 'a broker trusts only what the feed and the certificate say'
const outside = 'it is an outside party and must fail when the protocol breaks'
const upward = 'edges ask the RA, the RA asks the CA, the CA writes the registry; never upward'
const edges = [
  'enroll/est',
  'enroll/admin',
  'enroll/feed-server.ts',
  'enroll/status.ts',
  'enroll/feed-follower.ts',
  'enroll/broker-questions.ts',
  'enroll/policy.ts',
  'enroll/service.ts',
]
const asked = 'trust is asked, it does not know who asks'
const sideways = 'two edges never meet; what they share is below them'

/** Who must not import whom. A folder or a file on either side; each must exist, so that no rule outlives a rename. */
const forbidden: { from: string; to: string[]; because: string }[] = [
  { from: 'contract', to: ['runtime', 'pki', 'enroll', 'broker', 'device-sim', 'cli', 'bin'], because: browser },
  { from: 'runtime', to: ['pki', 'enroll', 'broker', 'device-sim', 'cli', 'bin'], because: noDomain },
  { from: 'pki', to: ['enroll', 'broker', 'device-sim', 'cli', 'bin'], because: pure },
  { from: 'pki', to: ['config', 'log', 'https', 'lifecycle'].map((name) => `runtime/${name}.ts`), because: pure },
  { from: 'enroll', to: ['broker', 'device-sim', 'cli', 'bin'], because: relyingParty },
  { from: 'broker', to: ['enroll', 'device-sim', 'cli', 'bin'], because: trust },
  // cli may import device-sim: both are outside parties, and `fleetgate demo` drives devices.
  { from: 'device-sim', to: ['enroll', 'broker', 'cli', 'bin'], because: outside },
  { from: 'cli', to: ['enroll', 'broker'], because: 'it speaks the admin API, and starts the services as processes' },
  { from: 'cli', to: ['bin'], because: 'bin finds a Node for cli, not the other way round' },
  { from: 'enroll/registry', to: ['enroll/ca', 'enroll/ra', ...edges], because: upward },
  { from: 'enroll/ca', to: ['enroll/ra', ...edges], because: upward },
  { from: 'enroll/ra', to: edges, because: upward },
  { from: 'enroll/est', to: ['enroll/admin', 'enroll/feed-server.ts'], because: sideways },
  { from: 'enroll/admin', to: ['enroll/est'], because: sideways },
  {
    from: 'enroll/feed-server.ts',
    to: ['enroll/est', 'enroll/admin', 'enroll/status.ts'],
    because: sideways,
  },
  {
    from: 'enroll/feed-follower.ts',
    to: ['enroll/est', 'enroll/admin', 'enroll/status.ts'],
    because: sideways,
  },
  {
    from: 'enroll/status.ts',
    to: ['enroll/est', 'enroll/admin', 'enroll/feed-server.ts', 'enroll/feed-follower.ts'],
    because: sideways,
  },
  { from: 'broker/trust', to: ['mqtt', 'gate', 'sessions'].map((name) => `broker/${name}.ts`), because: asked },
  { from: 'broker/store.ts', to: ['broker/trust'], because: 'the store keeps bytes, it does not know what they mean' },
]

/** Every package with the places that may import it, and what it is taken for. One that is not here is not imported. */
const packages: Record<string, { in: string[]; for: string }> = {
  aedes: { in: ['broker/wire/aedes-port.ts'], for: 'the bus for messages of QoS 0' },
  '@peculiar/x509': { in: ['pki/x509.ts'], for: 'certificates in tools and clients' },
  'reflect-metadata': { in: ['pki/x509.ts'], for: 'what @peculiar/x509 asks for' },
  pkijs: { in: ['pki/cms.ts'], for: 'CMS in clients' },
  asn1js: { in: ['pki/cms.ts'], for: 'what pkijs is spoken to with' },
  level: {
    in: [
      'enroll/registry/database.ts',
      'enroll/registry/database-copy.ts',
      'enroll/registry/migrations.ts',
      'broker/store.ts',
    ],
    for: 'the embedded store; it opens in one process only',
  },
  pino: { in: ['runtime/log.ts'], for: 'log lines, so that redaction has one place' },
  'pino-pretty': { in: ['runtime/log.ts'], for: 'log lines on a terminal' },
  yaml: {
    in: ['runtime/yaml.ts', 'cli/commands/policy.ts'],
    for: 'YAML: read in one place, so that its bounds are; printed where a policy is shown',
  },
  zod: {
    in: [
      'contract',
      'runtime',
      'enroll/admin',
      'broker/trust/facts.ts',
      'cli/admin-client.ts',
      'cli/admin-connection.ts',
      'cli/device-file.ts',
      'cli/commands/policy-file.ts',
    ],
    for: 'schemas at the borders',
  },
  ws: { in: ['broker/websocket.ts'], for: 'MQTT over WebSocket' },
  'prom-client': { in: ['runtime/metrics.ts'], for: 'metrics in the form that Prometheus reads' },
  fastify: { in: ['enroll/admin'], for: 'the admin API' },
  mqtt: { in: ['device-sim/device.ts', 'device-sim/load/connection.ts'], for: 'MQTT as a device speaks it' },
  commander: { in: ['cli', 'device-sim/load/command.ts'], for: 'the command line' },
  'lean-qr': { in: ['cli/qr.ts'], for: 'QR codes, for devices that have a camera and no keyboard' },
  'cli-progress': { in: ['cli', 'device-sim/load/command.ts'], for: 'progress bars' },
}

/** Words that only some files may hold; each exception has its reason. */
const words: { word: RegExp; in: string[]; but: Record<string, string>; because: string }[] = [
  {
    word: /\bprocess\.env\b/,
    in: folders,
    but: {
      'runtime/config.ts': 'the one reader of settings',
      'cli/main.ts': 'hands the environment to the commands as an argument',
      'device-sim/main.ts': 'an outside party with settings of its own (DEVICE_SIM_...)',
    },
    because: 'a setting is in the schema and in docs/configuration.md, or it is not there',
  },
  {
    word: /\bDate\.now\(|\bnew Date\(\)|\bperformance\.now\(/,
    in: ['pki', 'enroll/ca', 'enroll/ra', 'broker/admission.ts', 'broker/verification.ts', 'contract'],
    but: {},
    because: 'what is valid depends on the time that was passed in',
  },
  {
    word: /\bMath\.random\b/,
    in: ['contract', 'runtime', 'pki', 'enroll'],
    but: {},
    because: 'nothing that identifies or protects may be guessable',
  },
  {
    word: /\bconsole\.(log|warn|error|info|debug)\b/,
    in: folders,
    but: {},
    because: 'services log events with fields (runtime/log.ts), commands write through cli/io.ts',
  },
  {
    word: /rejectUnauthorized:\s*false/,
    in: folders,
    but: {
      'runtime/https.ts': 'tlsOptions: our listeners ask for a certificate and decide themselves what it is worth',
      'device-sim/est-client.ts':
        'RFC 7030 4.1.1: /cacerts is fetched before anything is trusted; the fingerprint decides',
    },
    because: 'a peer is verified',
  },
]

test('nobody imports what the table forbids', () => {
  const broken = forbidden.flatMap(({ from, to, because }) =>
    production
      .filter((file) => isWithin(file, from))
      .flatMap((file) =>
        importsOf
          .get(file)!
          .filter((target) => to.some((place) => isWithin(target, place)))
          .map((target) => `${file} imports ${target}: ${because}`),
      ),
  )
  assert.deepEqual(broken, [])
})

test('every place that the table names exists', () => {
  const places = [
    ...forbidden.flatMap(({ from, to }) => [from, ...to]),
    ...Object.values(packages).flatMap((entry) => entry.in),
    ...words.flatMap((entry) => entry.in),
  ]
  assert.deepEqual(
    [...new Set(places)].filter((place) => !existsSync(join(root, place))),
    [],
  )
})

test('production imports neither tests nor benchmarks', () => {
  const broken = production.filter((file) => importsOf.get(file)!.some((target) => /^(test|bench|docs)\//.test(target)))
  assert.deepEqual(broken, [])
})

test('a package is imported only where the table says', () => {
  const broken = production.flatMap((file) =>
    packagesOf(file)
      .filter((name) => !(packages[name]?.in ?? []).some((place) => isWithin(file, place)))
      .map((name) => `${file} imports ${name}`),
  )
  assert.deepEqual(broken, [])
})

test('every dependency of package.json is imported, and every imported package is a dependency', () => {
  const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  const imported = new Set(production.flatMap(packagesOf))
  assert.deepEqual([...imported].sort(), Object.keys(dependencies).sort())
})

test('relative imports name a file that exists', () => {
  const broken = everything.flatMap((file) =>
    importsOf
      .get(file)!
      .filter((target) => !/^(npm|node):/.test(target) && !existsSync(join(root, target)))
      .map((target) => `${file} imports ${target}`),
  )
  assert.deepEqual(broken, [])
})

test('folders do not import each other in a circle', () => {
  // A file that stands directly in enroll/ or broker/ is a room of its own: service.ts wires the folders below it.
  const roomOf = (file: string): string =>
    /^(enroll|broker)\/[^/]+$/.test(file)
      ? file
      : file
          .split('/')
          .slice(0, /^(enroll|broker)\//.test(file) ? 2 : 1)
          .join('/')
  const next = new Map<string, Set<string>>()
  for (const file of production) {
    for (const target of importsOf.get(file)!.filter((path) => sourceOf.has(path))) {
      if (roomOf(file) !== roomOf(target))
        next.set(roomOf(file), (next.get(roomOf(file)) ?? new Set()).add(roomOf(target)))
    }
  }
  const done = new Set<string>()
  const circles: string[] = []
  const visit = (room: string, path: string[]): void => {
    if (path.includes(room)) circles.push([...path.slice(path.indexOf(room)), room].join(' -> '))
    else if (!done.has(room)) {
      for (const target of next.get(room) ?? []) visit(target, [...path, room])
      done.add(room)
    }
  }
  for (const room of next.keys()) visit(room, [])
  assert.deepEqual(circles, [])
})

test('some words stand only where the table allows them', () => {
  const broken = words.flatMap(({ word, in: places, but, because }) =>
    production
      .filter(
        (file) =>
          places.some((place) => isWithin(file, place)) && !Object.hasOwn(but, file) && !file.startsWith('bin/'),
      )
      .filter((file) => word.test(withoutComments(read(file))))
      .map((file) => `${file} has ${word.source}: ${because}`),
  )
  assert.deepEqual(broken, [])
})

/** Lines that tell of a refusal under no id, each with its reason. */
const unnamed: Record<string, string> = {
  'enroll/feed-server.ts feed.refused':
    'of brokers: enroll is what would be asked about it, and has the error beside it',
  'enroll/feed-server.ts report.refused': 'of brokers, likewise',
  'enroll/feed-server.ts report.limited': 'of brokers, likewise; nothing is lost',
  'broker/trust/reports.ts report.dropped': 'of this broker itself, which has more to report than it may keep',
  'enroll/reconfiguration.ts configuration.refused': 'of the file of an operator: the line says what is wrong in it',
  'enroll/admin/routes.ts request.refused': 'of operators: the answer itself has code, sentence and request id',
}

test('a line that tells of a refusal has the id of its denial, or stands in the table with a reason', () => {
  const told = ['broker', 'enroll', 'runtime'].flatMap((folder) =>
    production
      .filter((file) => isWithin(file, folder))
      .flatMap((file) => {
        const source = withoutComments(read(file))
        const found = source.matchAll(
          /\bevent:[^,\n]*?'([a-z]+\.(?:refused|denied|dropped|limited|kicked|malformed))'/g,
        )
        return [...found].map(({ 1: event, index }) => {
          const begin = source.lastIndexOf('{', index)
          const isNamed = /\bdenial\b/.test(source.slice(begin, source.indexOf('}', index)))
          // warnRefused puts it there.
          return { line: `${file} ${event}`, isNamed: isNamed || /\bwarnRefused\([^{]*$/.test(source.slice(0, begin)) }
        })
      }),
  )
  assert.ok(told.length > 10)
  const missing = new Set(told.filter(({ isNamed }) => !isNamed).map(({ line }) => line))
  assert.deepEqual([...missing].toSorted(), Object.keys(unnamed).toSorted())
})

test('an exception to a word is dropped when the file no longer needs it', () => {
  const idle = words.flatMap(({ word, but }) =>
    Object.keys(but).filter((file) => !sourceOf.has(file) || !word.test(withoutComments(read(file)))),
  )
  assert.deepEqual(idle, [])
})

// Registry.requireSameRequest finds by it what was written under an Idempotency-Key, and no commit of a longer key.
test('one word without a dash stands behind the id of a request in each commit that an operator asks for', () => {
  const ids = production
    .filter((file) => file.startsWith('enroll/'))
    .flatMap((file) =>
      [...read(file).matchAll(/(?:requestId:|requestId =) `\$\{[^}]*\}-([^`]*)`/g)].map(([, word]) => ({ file, word })),
    )
  assert.ok(ids.length > 20)
  // What a device has shown, and what the service does by itself: no key of an operator is in those.
  assert.deepEqual(ids.flatMap(({ file, word }) => (word!.includes('-') ? [file] : [])).toSorted(), [
    'enroll/ca/supersession.ts',
    'enroll/registry/certificates.ts',
  ])
})

test('a production file can be read in a sitting: under 450 lines', () => {
  assert.deepEqual(
    production.filter((file) => read(file).split('\n').length >= 450),
    [],
  )
})

test('no test is skipped for good or run alone, and what is to be done names its issue', () => {
  const left = [
    /\b(test|it|describe|suite)\.(only|todo)\(/,
    /\b(test|it|describe|suite)\.skip\(/,
    /\b(TODO|FIXME|XXX)\b(?!\(#\d+\))/,
  ]
  const broken = everything
    .filter((file) => file !== 'test/architecture.test.ts')
    .flatMap((file) => left.filter((word) => word.test(read(file))).map((word) => `${file} has ${word.source}`))
  assert.deepEqual(broken, [])
})

test('every test file is in one row of test/together and runs with npm test, or is of a script of its own', () => {
  const scripts = ['interop', 'long', 'together']
  const own = globSync('test/**/*.test.ts', { cwd: root }).filter((file) => !scripts.includes(file.split('/')[1]!))
  assert.deepEqual(Object.keys(rows).flatMap(filesOf).sort(), own.map((file) => file.slice('test/'.length)).sort())
  const launchers = globSync('test/together/*.test.ts', { cwd: root }).map((file) => basename(file, '.test.ts'))
  assert.deepEqual(launchers.sort(), Object.keys(rows).sort())
})

test('the reader of import lines sees every form that is used here', () => {
  const forms = everything.flatMap((file) =>
    [...withoutComments(read(file)).matchAll(/^\s*(?:import|export)\b[^'"\n(=]*['"]([^'"\n]+)['"]/gm)]
      .map((found) => found[1]!)
      .filter((target) => !importsOf.get(file)!.some((seen) => seen.endsWith(target.replace(/^[./]+/, ''))))
      .map((target) => `${file}: ${target}`),
  )
  assert.deepEqual(forms, [])
})

function withoutComments(source: string): string {
  return source.replaceAll(/\/\*[\s\S]*?\*\//g, '').replaceAll(/(^|\s)\/\/.*$/gm, '$1')
}
