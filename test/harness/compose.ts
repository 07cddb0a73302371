/** docker-compose.yml as compose understands it: merged, with its variables in place, and nothing in it that compose has no word for. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parse } from 'yaml'
import { z } from 'zod'

export const root = join(import.meta.dirname, '..', '..')

const words = z.array(z.string()).min(1)
const time = z.string().regex(/^\d+(?:ms|s|m)$/)
const condition = z.enum(['service_started', 'service_healthy', 'service_completed_successfully'])
const variables = z.record(z.string().regex(/^[A-Z][A-Z0-9_]*$/), z.string())
/** The attributes of the Compose Specification that this project uses; one that is not here is misspelt, or wants to be judged by a test. */
const service = z.strictObject({
  image: z.string(),
  build: z.literal('.').optional(),
  user: z.string(),
  command: words,
  hostname: z.string().optional(),
  profiles: words.optional(),
  environment: variables.default({}),
  ports: z.array(z.string().regex(/^(?:127\.0\.0\.1:)?\d+:\d+$/)).default([]),
  network_mode: z.literal('none').optional(),
  volumes: z.array(z.string().regex(/^(?:\.\/)?[a-z/-]+:\/[a-z/]+(?::ro)?$/)),
  secrets: words.optional(),
  depends_on: z.record(z.string(), z.strictObject({ condition })).default({}),
  healthcheck: z.union([
    z.strictObject({
      test: words.refine(([kind]) => kind === 'CMD', 'without a shell'),
      interval: time,
      timeout: time,
      retries: z.int().min(1),
      start_period: time,
    }),
    z.strictObject({ disable: z.literal(true) }),
  ]),
  init: z.boolean(),
  restart: z.enum(['no', 'unless-stopped']),
  read_only: z.boolean(),
  tmpfs: words,
  cap_drop: words,
  security_opt: words,
  pids_limit: z.int().min(1),
  ulimits: z.strictObject({ nofile: z.int().min(1024) }).optional(),
  stop_grace_period: time,
})
export type ComposeService = z.output<typeof service>

const secrets = z.record(z.string(), z.strictObject({ file: z.string() }))
const file = z.strictObject({
  services: z.record(z.string(), service),
  volumes: z.record(z.string(), z.null()),
  secrets,
})
const overlay = z.strictObject({
  services: z.record(z.string(), z.strictObject({ environment: variables, secrets: words })),
  secrets,
})

/** Without the fragments (`x-…`), whose content is by then where it belongs. */
function read(path: string, env: Record<string, string>): unknown {
  const tree = parse(readFileSync(join(root, path), 'utf8'), { merge: true })
  const whole = Object.entries(tree).filter(([name]) => !name.startsWith('x-'))
  return JSON.parse(
    JSON.stringify(Object.fromEntries(whole)).replaceAll(
      /\$\{([A-Z_]+)(?::[-?]([^}]*))?\}/g,
      (_, name: string, otherwise = '') => env[name] ?? otherwise,
    ),
  )
}

export const readCompose = (env: Record<string, string> = {}) => file.parse(read('docker-compose.yml', env))
export const readOverlay = (path: string, env: Record<string, string> = {}) => overlay.parse(read(path, env))

export const mountsOf = ({ volumes }: ComposeService): { from: string; to: string; readOnly: boolean }[] =>
  volumes.map((mount) => {
    const [from, to, mode] = mount.split(':')
    return { from: from!, to: to!, readOnly: mode === 'ro' }
  })
