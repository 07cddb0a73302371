import { createPrivateKey, randomBytes } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Command, InvalidArgumentError } from 'commander'
import { type BrokerCredential, type BrokerView, isHostName } from '../../contract/broker-api.ts'
import { address } from '../../contract/listeners.ts'
import { brokerIdRule, isBrokerId } from '../../contract/service-settings.ts'
import { toPem } from '../../pki/certificate.ts'
import { sealedKey } from '../../pki/keystore.ts'
import { createKeyAndCsr } from '../../pki/x509.ts'
import { commandLine, readEndpoints } from '../../runtime/endpoints.ts'
import { FleetError } from '../../runtime/errors.ts'
import { readPassphrase, writeFileAtomic } from '../../runtime/files.ts'
import { hashPassword, maxPasswordBytes, readPasswordFile, saltBytes } from '../../runtime/passwords.ts'
import { readText } from '../access-folder.ts'
import { openAdminClient } from '../admin-client.ts'
import type { Io } from '../io.ts'
import { fields, table } from '../output.ts'
import { addBrokerRun } from './broker-run.ts'
import { ask, type Common, deviceId, examples, folderName, named, print, withCommon } from './shared.ts'

type Create = Common & { name: string[]; feed: string; out: string; passphraseFile?: string }

export function addBroker(program: Command, io: Io): void {
  const broker = program
    .command('broker')
    .description('brokers that follow this gateway, and have to confirm a revocation')

  examples(
    withCommon(broker.command('create')),
    'broker create broker-2 --name mqtt-2.example --feed enroll.example:9444 --out broker-2',
  )
    .description('make a key, a certificate and a configuration for another broker: a folder for its machine')
    .argument('<id>', 'name of the broker, in logs and receipts', brokerId)
    .requiredOption(
      '--name <name>',
      'DNS name or IP address that devices reach it by, again for each (required)',
      hostNames,
    )
    .requiredOption(
      '--feed <host:port>',
      'where it reaches the trust feed of enroll, enroll.feed (required)',
      feedAddress,
    )
    .requiredOption('--out <dir>', 'folder to make (required)', folderName)
    .option('--passphrase-file <file>', 'encrypt the key with this; there it is what keys.passphraseFile names')
    .action(async (id: string, options: Create) => {
      print(io, options, await create(id, options), (view) => details(view) + howToStart(options.out))
    })

  addBrokerRun(broker, io)

  examples(withCommon(broker.command('ls'), named), 'broker ls', 'broker ls -o json')
    .description('list them, with how far each has followed')
    .action((options: Common) => ask(io, options, async (client) => ({ items: await client.listBrokers() }), list))

  examples(withCommon(broker.command('forget')), 'broker forget broker-2')
    .description(
      'take a broker out of service for good: nobody waits for it, and its certificates are revoked. One that is connected is not forgotten',
    )
    .argument('<id>', 'name of the broker')
    .action((id: string, options: Common) =>
      ask(
        io,
        options,
        (client) => client.forgetBroker(id),
        (answer) =>
          fields(
            [
              ['forgotten', answer.id],
              ['revoked', answer.certificates.join(', ')],
            ],
            io.colour,
          ),
      ),
    )

  examples(
    broker.command('passwd'),
    'broker passwd cam-1 --file passwords',
    'broker passwd cam-1 < password.txt >> passwords',
  )
    .description('make the line of a device for the password file of a listener, from a prompt or standard input')
    .argument('<device>', 'device id', deviceId)
    .option('--file <file>', 'put it into this file, in place of the line that the device has there')
    .action((id: string, options: { file?: string }) => setPassword(io, id, options.file))

  const list = ({ items }: { items: BrokerView[] }): string =>
    table(
      ['broker', 'connected', 'applied', 'last seen', 'admits until', 'certificate ends'],
      items.map((item) => [
        item.id,
        item.connected ? 'yes' : 'no',
        item.appliedSeq === undefined ? 'never came' : String(item.appliedSeq),
        item.lastSeenAt,
        item.appliedSeq === undefined ? '' : admitsUntil(item),
        item.expiresAt,
      ]),
      io.colour,
    )

  const details = ({ id, names, serial, expiresAt }: Created): string =>
    fields(
      [
        ['broker', id],
        ['names', names.join(', ')],
        ['certificate', serial],
        ['ends', expiresAt],
      ],
      io.colour,
    )
}

type Created = Omit<BrokerCredential, 'certificate'>

/** The key is made here and stays in the folder; the gateway sees its certificate request alone. */
async function create(id: string, { data, name: names, feed, out, passphraseFile }: Create): Promise<Created> {
  const folder = join(out, 'services', 'broker')
  const file = (name: string): string => join(folder, name)
  if (existsSync(file('tls.crt'))) {
    throw new FleetError('conflict', `${file('tls.crt')} is there already; name another folder`)
  }
  const root = readText(readEndpoints(data).rootCertificate)
  const passphrase = readPassphrase(passphraseFile)
  const { privateKeyPem, csrDer } = await createKeyAndCsr({ commonName: id })
  // Before the gateway is asked: a certificate for a key that could not be kept is worth nothing, and the name is taken.
  writeFileAtomic(file('tls.key'), sealedKey(createPrivateKey(privateKeyPem), passphrase), 0o600)
  using client = openAdminClient(data)
  const { certificate, ...view } = await client.createBroker({ id, names, csr: toPem(csrDer, 'CERTIFICATE REQUEST') })
  writeFileAtomic(file('root.crt'), root)
  writeFileAtomic(join(out, 'fleetgate.yaml'), configurationOf(id, feed))
  writeFileAtomic(file('tls.crt'), certificate)
  return view
}

const configurationOf = (id: string, feed: string): string =>
  `# Settings of the broker ${id}; docs/configuration.md has all of them.\nbroker: { id: ${JSON.stringify(id)}, feed: ${JSON.stringify(feed)} }\n`

function howToStart(out: string): string {
  const command = commandLine(['broker', 'run', '--config', join(out, 'fleetgate.yaml')], out)
  return `start it, once the folder is where it belongs: ${command}\n`
}

function brokerId(text: string): string {
  if (isBrokerId(text)) return text
  throw new InvalidArgumentError(`The name of a broker is ${brokerIdRule}.`)
}

function hostNames(text: string, before: string[] | undefined): string[] {
  if (isHostName(text)) return [...(before ?? []), text]
  throw new InvalidArgumentError('Give a DNS name or an IP address.')
}

function feedAddress(text: string): string {
  if (address.safeParse(text).success) return text
  throw new InvalidArgumentError('Give host:port, such as enroll.example:9444.')
}

/** How long a broker that is away lets devices in that it may not know to be revoked. */
export function admitsUntil({ connected, admitsUntil }: Pick<BrokerView, 'connected' | 'admitsUntil'>): string {
  if (connected) return ''
  return admitsUntil === undefined ? 'not known' : (admitsUntil ?? 'no end')
}

async function setPassword(io: Io, id: string, file: string | undefined): Promise<void> {
  const password = Buffer.from(await io.readSecret(`Password of ${id}: `))
  if (password.length < 8 || password.length > maxPasswordBytes)
    throw new FleetError(
      'request_malformed',
      `a password has 8 to ${maxPasswordBytes} octets; this one has ${password.length}`,
    )
  const line = `${id}:${await hashPassword(password, randomBytes(saltBytes))}\n`
  if (file === undefined) {
    io.out(line)
    return
  }
  const lines = existsSync(file) ? readFileSync(file, 'utf8').split(/(?<=\n)/) : []
  if (lines.length > 0) readPasswordFile(file) // a file of something else is not to be written over
  const others = lines.filter((other) => !other.startsWith(`${id}:`)).map((other) => other.replace(/\n?$/, '\n'))
  writeFileAtomic(file, [...others, line].join(''), 0o600)
}
