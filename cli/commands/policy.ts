import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Command } from 'commander'
import { stringify } from 'yaml'
import type { PolicyView } from '../../contract/admin-api.ts'
import { type PolicyDocument, policyDocument } from '../../contract/policy-document.ts'
import { commandLine } from '../../runtime/endpoints.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import { parseYaml } from '../../runtime/yaml.ts'
import type { Io } from '../io.ts'
import { json, visible } from '../output.ts'
import { ask, type Common, examples, withCommon } from './shared.ts'

export function addPolicy(program: Command, io: Io): void {
  const policy = program.command('policy').description('which certificate subjects may touch which topics')

  examples(withCommon(policy.command('check')), 'policy check', 'policy check new-policy.yaml')
    .description('check a policy file; needs no running gateway')
    .argument('[file]', 'policy file (default: policy.yaml in the data folder)')
    .action((file: string | undefined, options: Common) => {
      const path = file ?? join(options.data, 'policy.yaml')
      try {
        const statements = readPolicy(path, options.data).policies.map(({ name }) => name)
        const text = `${path} is valid: ${statements.length} statement(s)${statements.map((name) => `\n  ${visible(name)}`).join('')}\n`
        io.out(options.output === 'json' ? json({ ok: true, file: path, statements, faults: [] }) : text)
      } catch (error) {
        if (options.output === 'json' && isFleetError(error, 'policy_invalid')) {
          io.out(json({ ok: false, file: path, statements: [], faults: error.message.split('\n') }))
        }
        throw error
      }
    })

  examples(withCommon(policy.command('apply')), 'policy apply', 'policy apply new-policy.yaml')
    .description('check a policy file and put it in force; open sessions obey at once')
    .argument('[file]', 'policy file (default: policy.yaml in the data folder)')
    .action((file: string | undefined, options: Common) => {
      const document = readPolicy(file ?? join(options.data, 'policy.yaml'), options.data)
      return ask(
        io,
        options,
        (client) => client.applyPolicy(document),
        (view) => `policy ${view.version} is in force: ${view.document.policies.length} statement(s)\n`,
      )
    })

  examples(withCommon(policy.command('show')), 'policy show', 'policy show > policy.yaml')
    .description('print the policy in force')
    .action((options: Common) => ask(io, options, (client) => client.getPolicy(), render))

  const render = ({ version, at, by, document }: PolicyView): string =>
    `# policy ${version}, in force since ${visible(at)}, by ${visible(by)}\n${stringify(withoutEmpty(document))}`
}

/** @throws FleetError `policy_invalid`, refused: a check that says no */
function readPolicy(path: string, dataDir: string): PolicyDocument {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (cause) {
    throw new FleetError(
      'config_invalid',
      `${path} cannot be read; name another file, or print the policy in force: ${commandLine(['policy', 'show'], dataDir)}`,
      { cause },
    )
  }
  try {
    return parseYaml(text, policyDocument, path, 'policy_invalid')
  } catch (cause) {
    if (!isFleetError(cause, 'policy_invalid')) throw cause
    throw new FleetError('policy_invalid', cause.message, { cause, context: { refused: true } })
  }
}

/** A statement as a person would write it: the schema's empty `match`, `allow` and `deny` say nothing. */
const withoutEmpty = ({ policies }: PolicyDocument): unknown => ({
  policies: policies.map((statement) =>
    Object.fromEntries(
      Object.entries(statement).filter(([, value]) => typeof value !== 'object' || Object.keys(value).length > 0),
    ),
  ),
})
