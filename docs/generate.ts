/** Prints the reference pages from the code: `npm run docs`. test/docs.test.ts and test/cli/documented.test.ts fail when they are out of date. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { configurationSchema } from '../contract/configuration-schema.ts'
import { openApiOf } from '../enroll/admin/openapi.ts'
import { routes } from '../enroll/admin/table.ts'
import { configurationPage } from './configuration.ts'
import { errorsPage } from './errors.ts'
import { eventsPage, eventsSchema } from './events.ts'
import { jsonPage } from './json.ts'
import { metricsPage } from './metrics.ts'
import { behaviourPage } from './mqtt-behaviour.ts'
import { formatted } from './printing.ts'

/** File name -> content, for everything that is printed but cli.md, for which all commands are loaded. */
export const pages: Record<string, string> = {
  'configuration.md': configurationPage(),
  'configuration.schema.json': formatted(configurationSchema()),
  'errors.md': errorsPage(),
  'events.md': eventsPage(),
  'events.schema.json': eventsSchema(),
  'json.md': jsonPage(),
  'metrics.md': metricsPage(),
  'openapi.json': formatted(openApiOf(routes)),
  'mqtt-behaviour.md': behaviourPage(),
}

if (import.meta.main) {
  const { commandsPage } = await import('./cli.ts')
  const all = { ...pages, 'cli.md': commandsPage() }
  for (const [name, text] of Object.entries(all)) writeFileSync(join(import.meta.dirname, name), text)
}
