import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { type Command, InvalidArgumentError } from 'commander'
import {
  isOperatorName,
  type OperatorCredential,
  type OperatorView,
  operatorNameRule,
  type RemovedOperator,
  type Role,
  roles,
} from '../../contract/operator-api.ts'
import { parseCertificate, parsePem, toPem } from '../../pki/certificate.ts'
import { valuesOf } from '../../pki/names.ts'
import { createKeyAndCsr } from '../../pki/x509.ts'
import { readEndpoints } from '../../runtime/endpoints.ts'
import { FleetError } from '../../runtime/errors.ts'
import { writeFileAtomic } from '../../runtime/files.ts'
import {
  accessUrl,
  howToUse,
  isOfGateway,
  readText,
  replaceAccess,
  roleName,
  roleOption,
  writeAccess,
} from '../access-folder.ts'
import { type AdminClient, openAdminClient } from '../admin-client.ts'
import type { Io } from '../io.ts'
import { fields, table } from '../output.ts'
import { ask, type Common, examples, folderName, named, print, withCommon } from './shared.ts'

type Renew = Common & { out?: string; csr?: string; url?: string }
type Create = Common & { role: Role; out: string; csr?: string; url?: string }

export function addOperator(program: Command, io: Io): void {
  const operator = program.command('operator').description('who may use the admin API, and how far')

  examples(
    withCommon(operator.command('create')),
    'operator create ann --role operator --out ann',
    'operator create ann --role viewer --csr ann.csr --out ann',
  )
    .description('make an operator with a key and certificate; the folder is then what --data names on any machine')
    .argument('<name>', 'as the audit log will name them', operatorName)
    .requiredOption('--out <dir>', 'folder for key and certificates (required)', folderName)
    .addOption(roleOption())
    .option('--csr <file>', 'certificate request (PEM) for a key that they have, in place of a new one')
    .option('--url <url>', 'where they reach the admin API (default: as this machine does)', accessUrl)
    .action(async (name: string, options: Create) => {
      print(io, options, await create(name, options), (view) => details(view) + howToUse(options.out))
    })

  examples(withCommon(operator.command('renew')), 'operator renew --data ann', 'operator renew ann --out ann-again')
    .description(
      'another key and certificate for the operator whose folder --data names, or, by an admin, for one that is named; those before end once it is used',
    )
    .argument('[name]', 'an operator whose certificate has ended or is lost', operatorName)
    .option('--out <dir>', 'folder for key and certificates of the operator that is named', folderName)
    .option('--csr <file>', 'certificate request (PEM) for a key that they have, in place of a new one')
    .option('--url <url>', 'where they reach the admin API (default: as this machine does)', accessUrl)
    .action(async (name: string | undefined, options: Renew, command: Command) => {
      const { out, csr, url } = options
      if ((name === undefined) !== (out === undefined)) command.error('error: name an operator and --out, or neither')
      if (out === undefined && (csr ?? url) !== undefined)
        command.error('error: --csr and --url are for an operator who is named')
      const view =
        name === undefined || out === undefined ? await renewOwn(options) : await renewOther(name, { ...options, out })
      print(io, options, view, (shown) => details(shown) + (out === undefined ? '' : howToUse(out)))
    })

  examples(withCommon(operator.command('ls'), named), 'operator ls', 'operator ls -o json')
    .description('list them')
    .action((options: Common) =>
      ask(
        io,
        options,
        async (client) => ({ items: await client.listOperators() }),
        ({ items }) => list(items),
      ),
    )

  examples(withCommon(operator.command('show'), named), 'operator show ann')
    .description('show one')
    .argument('<name>', 'operator', operatorName)
    .action((name: string, options: Common) => ask(io, options, (client) => client.getOperator(name), details))

  examples(withCommon(operator.command('set-role')), 'operator set-role ann viewer')
    .description('give another role; the next request meets it')
    .argument('<name>', 'operator', operatorName)
    .argument('<role>', roles.join(', '), roleName)
    .action((name: string, role: Role, options: Common) =>
      ask(io, options, (client) => client.changeOperator(name, { role }), details),
    )

  for (const [verb, status, what] of [
    ['disable', 'disabled', 'let nobody in by this name, until it is enabled again'],
    ['enable', 'active', 'let a disabled operator in again'],
  ] as const) {
    examples(withCommon(operator.command(verb)), `operator ${verb} ann`)
      .description(what)
      .argument('<name>', 'operator', operatorName)
      .action((name: string, options: Common) =>
        ask(io, options, (client) => client.changeOperator(name, { status }), details),
      )
  }

  examples(withCommon(operator.command('rm')), 'operator rm ann')
    .description(
      'remove an operator for good and revoke their certificates; the name is not given again. API tokens that they made stay, and are listed',
    )
    .argument('<name>', 'operator', operatorName)
    .action((name: string, options: Common) =>
      ask(
        io,
        options,
        (client) => client.removeOperator(name),
        (view) => details(view) + leftBehind(view),
      ),
    )

  const list = (views: OperatorView[]): string =>
    table(
      ['name', 'role', 'status', 'certificate ends', 'created', 'by'],
      views.map((view) => [view.name, view.role, view.status, view.expiresAt, view.createdAt, view.createdBy]),
      io.colour,
    )

  const leftBehind = ({ certificates, apiTokens }: RemovedOperator): string => {
    const revoked = fields([['revoked', certificates.join(', ')]], io.colour)
    if (apiTokens.length === 0) return revoked
    const rows = apiTokens.map(({ name, role, expiresAt }) => [name, role, expiresAt])
    const list = table(['api token', 'role', 'ends'], rows, io.colour)
    return `${revoked}\nmade by them and still good; fleetgate api-token rm NAME ends one:\n${list}`
  }

  const details = (view: OperatorView): string =>
    fields(
      [
        ['name', view.name],
        ['role', view.role],
        ['status', view.status],
        ['created', view.createdAt],
        ['by', view.createdBy],
        ['certificate', view.serial],
        ['ends', view.expiresAt],
      ],
      io.colour,
    )
}

type Handed = Pick<Create, 'data' | 'out' | 'csr' | 'url'>
type Certify = (client: AdminClient, csr: string) => Promise<OperatorCredential>

const create = (name: string, { role, ...handed }: Create): Promise<OperatorView> =>
  handOver(name, handed, (client, csr) => client.createOperator({ name, role, csr }))

const renewOther = (name: string, handed: Handed): Promise<OperatorView> =>
  handOver(name, handed, (client, csr) => client.renewOperator(name, { csr }))

/** The key is made here and stays in the folder; the gateway sees its certificate request alone. */
async function handOver(name: string, { data, out, csr, url }: Handed, certify: Certify): Promise<OperatorView> {
  const file = (stem: string): string => join(out, stem)
  const certificateFile = file('operator.crt')
  if (existsSync(certificateFile)) {
    throw new FleetError('conflict', `${certificateFile} is there already; name another folder`)
  }
  const endpoints = readEndpoints(data)
  const made = csr === undefined ? await createKeyAndCsr({ commonName: name }) : undefined
  const request = made === undefined ? readText(csr!) : toPem(made.csrDer, 'CERTIFICATE REQUEST')
  // Before the gateway is asked: a certificate for a key that could not be kept is worth nothing, and its name is taken.
  if (made !== undefined) writeFileAtomic(file('operator.key'), made.privateKeyPem, 0o600)
  using client = openAdminClient(data)
  const { certificate, ...view } = await certify(client, request)
  writeFileAtomic(certificateFile, certificate)
  writeAccess(out, endpoints, { url, operatorCertificate: 'operator.crt', operatorKey: 'operator.key' })
  return view
}

/** What was there before is good until the new one is shown, so nothing that goes wrong on the way locks anybody out. */
async function renewOwn({ data }: Common): Promise<OperatorView> {
  const { operatorCertificate } = readEndpoints(data)
  if (operatorCertificate === undefined)
    throw new FleetError('conflict', `${data} has an API token; make another: fleetgate api-token create`)
  if (isOfGateway(data))
    throw new FleetError(
      'conflict',
      `enroll renews the certificate in ${data} by itself; for another key, see Rotate in docs/operations.md`,
    )
  const [der = Buffer.of()] = parsePem(readText(operatorCertificate), 'CERTIFICATE')
  const [name = ''] = valuesOf(parseCertificate(der).subject, 'CN')
  const { privateKeyPem: key, csrDer } = await createKeyAndCsr({ commonName: name })
  using former = openAdminClient(data)
  const { certificate } = await former.renewOperator(name, { csr: toPem(csrDer, 'CERTIFICATE REQUEST') })
  replaceAccess(data, { key, certificate })
  using client = openAdminClient(data)
  return client.getOperator(name)
}

function operatorName(text: string): string {
  if (isOperatorName(text)) return text
  throw new InvalidArgumentError(`The name of an operator is ${operatorNameRule}.`)
}
