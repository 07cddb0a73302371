import type { Command } from 'commander'
import { stringify } from 'yaml'
import type { PolicyView } from '../../contract/admin-api.ts'
import type { PolicyDocument } from '../../contract/policy-document.ts'
import { reviewPolicy } from '../../contract/policy-review.ts'
import { isFleetError } from '../../runtime/errors.ts'
import type { Io } from '../io.ts'
import { visible } from '../output.ts'
import { defaultPolicy, readPolicy } from './policy-file.ts'
import { addPolicyQuestions } from './policy-questions.ts'
import { ask, type Common, examples, profilesOf, structured, withCommon } from './shared.ts'

export function addPolicy(program: Command, io: Io): void {
  const policy = program.command('policy').description('which certificate subjects may touch which topics')

  examples(withCommon(policy.command('check')), 'policy check', 'policy check new-policy.yaml')
    .description('check a policy file and warn of what is most likely not meant; needs no running gateway')
    .argument('[file]', 'policy file (default: policy.yaml in the data folder)')
    .action((file: string | undefined, options: Common & { config?: string }) => {
      const path = file ?? defaultPolicy(options.data)
      try {
        const { value: document, placeOf } = readPolicy(path, options.data)
        const statements = document.policies.map(({ name }) => name)
        const warnings = reviewPolicy(document, { profiles: profilesOf(options) }).map(
          ({ path: at, message }) => `${placeOf(at)}: ${message}`,
        )
        const findings = { ok: true, file: path, statements, faults: [], warnings }
        if (options.output !== 'table') io.out(structured(options.output, findings))
        else {
          io.out(`${path} is valid: ${statements.length} statement(s)\n`)
          for (const name of statements) io.out(`  ${visible(name)}\n`)
          for (const warning of warnings) io.out(`warning: ${visible(warning)}\n`)
        }
      } catch (error) {
        if (options.output !== 'table' && isFleetError(error, 'policy_invalid')) {
          const faults = error.message.split('\n')
          io.out(structured(options.output, { ok: false, file: path, statements: [], faults, warnings: [] }))
        }
        throw error
      }
    })

  examples(withCommon(policy.command('apply')), 'policy apply', 'policy apply new-policy.yaml')
    .description('check a policy file and put it in force; open sessions obey at once')
    .argument('[file]', 'policy file (default: policy.yaml in the data folder)')
    .action((file: string | undefined, options: Common) => {
      const { value: document } = readPolicy(file ?? defaultPolicy(options.data), options.data)
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

  addPolicyQuestions(policy, io)

  const render = ({ version, at, by, document }: PolicyView): string =>
    `# policy ${version}, in force since ${visible(at)}, by ${visible(by)}\n${stringify(withoutEmpty(document))}`
}

/** A statement as a person would write it: the schema's empty `match`, `allow` and `deny` say nothing. */
const withoutEmpty = ({ policies }: PolicyDocument): unknown => ({
  policies: policies.map((statement) =>
    Object.fromEntries(
      Object.entries(statement).filter(([, value]) => typeof value !== 'object' || Object.keys(value).length > 0),
    ),
  ),
})
