import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { z } from 'zod'
import { type PolicyDocument, policyDocument } from '../../contract/policy-document.ts'
import { commandLine } from '../../runtime/endpoints.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import { readYaml } from '../../runtime/yaml.ts'

export const defaultPolicy = (dataDir: string): string => join(dataDir, 'policy.yaml')

export type Placed<T> = { value: T; placeOf: (path: PropertyKey[]) => string }

/** @throws FleetError `policy_invalid`, refused: a check that says no */
export function readPolicy(path: string, dataDir: string): Placed<PolicyDocument> {
  const show = commandLine(['policy', 'show'], dataDir)
  return readChecked(path, policyDocument, `name another file, or print the policy in force: ${show}`)
}

/** @param advice what to do when there is no such file */
export function readChecked<S extends z.ZodType>(path: string, schema: S, advice: string): Placed<z.output<S>> {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (cause) {
    throw new FleetError('config_invalid', `${path} cannot be read; ${advice}`, { cause })
  }
  try {
    return readYaml(text, schema, path, 'policy_invalid')
  } catch (cause) {
    if (!isFleetError(cause, 'policy_invalid')) throw cause
    throw new FleetError('policy_invalid', cause.message, { cause, context: { refused: true } })
  }
}
