import { randomBytes } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import type { Command } from 'commander'
import type { StatusView } from '../../contract/admin-api.ts'
import { FleetError } from '../../runtime/errors.ts'
import { writeFileAtomic } from '../../runtime/files.ts'
import { hashPassword, maxPasswordBytes, readPasswordFile, saltBytes } from '../../runtime/passwords.ts'
import type { Io } from '../io.ts'
import { fields, table } from '../output.ts'
import { ask, type Common, deviceId, examples, named, withCommon } from './shared.ts'

type Broker = StatusView['brokers'][number]

export function addBroker(program: Command, io: Io): void {
  const broker = program
    .command('broker')
    .description('brokers that follow this gateway, and have to confirm a revocation')

  examples(withCommon(broker.command('ls'), named), 'broker ls', 'broker ls -o json')
    .description('list them, with how far each has followed')
    .action((options: Common) => ask(io, options, async (client) => ({ items: (await client.status()).brokers }), list))

  examples(withCommon(broker.command('forget')), 'broker forget broker-2')
    .description('wait no longer for a broker that was taken out of service; one that is connected is not forgotten')
    .argument('<id>', 'name of the broker')
    .action((id: string, options: Common) =>
      ask(
        io,
        options,
        (client) => client.forgetBroker(id),
        (answer) => fields([['forgotten', answer.id]], io.colour),
      ),
    )

  examples(
    broker.command('passwd'),
    'broker passwd cam-1 --file passwords',
    'echo "$PASSWORD" | fleetgate broker passwd cam-1 >> passwords',
  )
    .description('make the line of a device for the password file of a listener, from a prompt or standard input')
    .argument('<device>', 'device id', deviceId)
    .option('--file <file>', 'put it into this file, in place of the line that the device has there')
    .action((id: string, options: { file?: string }) => setPassword(io, id, options.file))

  const list = ({ items }: { items: Broker[] }): string =>
    table(
      ['broker', 'connected', 'applied', 'last seen', 'admits until'],
      items.map((item) => [
        item.id,
        item.connected ? 'yes' : 'no',
        String(item.appliedSeq),
        item.lastSeenAt,
        admitsUntil(item),
      ]),
      io.colour,
    )
}

/** How long a broker that is away lets devices in that it may not know to be revoked. */
export function admitsUntil({ connected, admitsUntil }: Broker): string {
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
