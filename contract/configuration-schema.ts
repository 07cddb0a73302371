import { z } from 'zod'
import { configuration } from './configuration.ts'

/** The configuration file as JSON Schema, for editors: docs/configuration.schema.json is this. */
export const configurationSchema = (): object => ({
  $id: 'urn:fleetgate:schema:configuration',
  title: 'Fleetgate configuration',
  ...z.toJSONSchema(configuration, { io: 'input', target: 'draft-2020-12' }),
})
