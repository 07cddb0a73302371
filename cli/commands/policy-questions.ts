import { dirname, resolve } from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { clientIdBelongsTo, type DeviceId, isDeviceId, nameRule } from '../../contract/ids.ts'
import { ownAuthority } from '../../contract/listeners.ts'
import { type Explanation, explainPolicy, type Question } from '../../contract/policy-explain.ts'
import { policyTests, runPolicyTests, writtenFacts } from '../../contract/policy-tests.ts'
import { factsOfClient, factsOfDevice, type PrincipalFacts } from '../../contract/principal-facts.ts'
import { parseCertificate, parsePem } from '../../pki/certificate.ts'
import { factsOfCertificate } from '../../pki/principal-facts.ts'
import { FleetError } from '../../runtime/errors.ts'
import { type AdminClient, openAdminClient } from '../admin-client.ts'
import type { Io } from '../io.ts'
import { visible } from '../output.ts'
import { defaultPolicy, readChecked, readPolicy } from './policy-file.ts'
import { type Common, examples, structured, wholeNumber, withCommon } from './shared.ts'

type Options = Common & {
  as?: DeviceId
  clientId?: string
  qos: number
  retain?: boolean
  bytes: number
  policy?: string
  facts?: string
}

const actions = { pub: 'publish', sub: 'subscribe', receive: 'receive' } as const
const codes = { publish: 'publish_denied', subscribe: 'subscribe_denied', receive: 'delivery_denied' } as const

export function addPolicyQuestions(policy: Command, io: Io): void {
  examples(
    withCommon(policy.command('can-i')),
    'policy can-i pub devices/cam-7/state --as device:cam-7',
    "policy can-i sub 'devices/+/telemetry/#' --as device:app-1 --policy new-policy.yaml",
    'policy can-i pub devices/x/y --policy policy.yaml --facts facts.yaml',
  )
    .description(
      'ask whether a device may publish, subscribe or receive, and which statement decides; 0 allowed, 3 denied',
    )
    .argument('<action>', `one of ${Object.keys(actions).join(', ')}`, action)
    .argument('<topic>', 'topic, or topic filter of a subscription')
    .option('--as <who>', 'device:ID: what the registry and its certificate say of it', asked)
    .option('--client-id <id>', 'MQTT client id (default: the device id)')
    .addOption(new Option('--qos <qos>', 'of the message').argParser(wholeNumber(0, 2)).default(0))
    .option('--retain', 'the message is to be retained')
    .addOption(new Option('--bytes <count>', 'of the payload').argParser(wholeNumber(0, 268_435_455)).default(0))
    .option('--policy <file>', 'ask this policy (default: the one in force)')
    .option('--facts <file>', 'ask for a principal that this file describes, instead of --as')
    .action(async (wanted: keyof typeof actions, topic: string, options: Options, command: Command) => {
      if ((options.as === undefined) === (options.facts === undefined))
        command.error('error: give either --as or --facts')
      if (options.facts !== undefined && options.clientId !== undefined)
        command.error("error: option '--client-id' cannot be used with '--facts', which has client.id")
      const question = questionOf(actions[wanted], topic, options)
      const { document, facts } = await situationOf(options)
      const explanation = explainPolicy(document, facts, question)
      if (options.output !== 'table') io.out(structured(options.output, explanation))
      if (!explanation.verdict.allowed) {
        const who = options.as ?? 'this principal'
        throw new FleetError(codes[question.action], refusal(who, question, explanation), {
          context: { refused: true },
        })
      }
      if (options.output === 'table') io.out(`allowed: ${visible(explanation.because)}\n`)
    })

  examples(withCommon(policy.command('test')), 'policy test expectations.yaml')
    .description('check a policy against a table of expectations; needs no running gateway')
    .argument('<file>', 'table of principals and what each may and may not do (docs/policy.md)')
    .option('--policy <file>', 'policy file (default: that of the table, else policy.yaml in the data folder)')
    .action((file: string, options: Common & { policy?: string }) => {
      const { value: table, placeOf } = readChecked(file, policyTests, 'name a table of expectations')
      const named = table.policy === undefined ? defaultPolicy(options.data) : resolve(dirname(file), table.policy)
      const path = options.policy ?? named
      const { value: document } = readPolicy(path, options.data)
      const failures = [...runPolicyTests(document, table)].map(
        ([at, sentence]) => `${placeOf(['tests', at])}: ${sentence}`,
      )
      const failed = failures.length
      const passed = table.tests.length - failed
      const result = { ok: failed === 0, policy: path, passed, failed, failures }
      if (options.output !== 'table') io.out(structured(options.output, result))
      else io.out(`${failures.map((line) => `${visible(line)}\n`).join('')}${passed} passed, ${failed} failed\n`)
      if (failed > 0) {
        const context = { refused: true }
        throw new FleetError('policy_invalid', `${path} does not do what ${file} expects`, { context })
      }
    })
}

function questionOf(wanted: Question['action'], topic: string, { qos, retain = false, bytes }: Options): Question {
  return wanted === 'publish' ? { action: wanted, topic, qos, retain, bytes } : { action: wanted, topic }
}

function refusal(who: string, { action: wanted, topic }: Question, { because, nearest }: Explanation): string {
  const hint = nearest === undefined ? '' : `; nearest is ${nearest.statement}: ${nearest.because}`
  return `${who} may not ${wanted} ${topic}: ${because}${hint}`
}

async function situationOf(options: Options) {
  const { as, facts, policy } = options
  const ofFile = policy === undefined ? undefined : readPolicy(policy, options.data).value
  const given = facts === undefined ? undefined : readChecked(facts, writtenFacts, 'name a file of facts').value
  if (ofFile !== undefined && given !== undefined) return { document: ofFile, facts: given }
  using client = openAdminClient(options.data)
  return {
    document: ofFile ?? (await client.getPolicy()).document,
    facts: given ?? (await factsOf(client, as!, options.clientId ?? as!)),
  }
}

/** What a broker would know of the device, were it connected with its current certificate. */
async function factsOf(client: AdminClient, id: DeviceId, clientId: string): Promise<PrincipalFacts> {
  const device = await client.getDevice(id)
  const context = { refused: true }
  if (device.status === 'revoked')
    throw new FleetError('device_revoked', `${id} is revoked and may do nothing`, { context })
  if (device.status === 'held') throw new FleetError('device_held', `${id} is on hold and may do nothing`, { context })
  if (!clientIdBelongsTo(clientId, id)) {
    const rule = `the client id must be ${id}, or ${id}: and a suffix of at most 64 characters`
    throw new FleetError('client_id_mismatch', rule, { context })
  }
  const { pem } = device.currentSerial === undefined ? {} : await client.getCertificate(device.currentSerial)
  const [der] = pem === undefined ? [] : parsePem(pem, 'CERTIFICATE')
  const certificate = der === undefined ? undefined : parseCertificate(der)
  const isExpired = certificate !== undefined && new Date() > certificate.notAfter
  return {
    ...(certificate === undefined ? {} : factsOfCertificate(certificate)),
    'issuer.label': [ownAuthority],
    'verify.state': [isExpired ? 'expired' : 'valid'],
    ...factsOfDevice(device),
    ...factsOfClient(clientId),
  }
}

function action(text: string): string {
  if (!Object.hasOwn(actions, text)) throw new InvalidArgumentError(`Give one of ${Object.keys(actions).join(', ')}.`)
  return text
}

function asked(text: string): DeviceId {
  const id = /^device:(.*)$/.exec(text)?.[1] ?? ''
  if (!isDeviceId(id)) throw new InvalidArgumentError(`Give device:ID; a device id is ${nameRule}.`)
  return id
}
