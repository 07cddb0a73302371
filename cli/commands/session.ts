import { type Command, InvalidArgumentError } from 'commander'
import { isClientId } from '../../contract/live-sessions.ts'
import type { KickReceipt, SessionPage, SessionView, Unheard } from '../../contract/session-api.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { Io } from '../io.ts'
import { fields, table, visible } from '../output.ts'
import { ask, type Common, deviceId, examples, named, withCommon } from './shared.ts'

export function addSession(program: Command, io: Io): void {
  const session = program.command('session').description('who is connected, as the brokers tell when they are asked')

  examples(
    withCommon(session.command('ls'), named),
    'session ls',
    'session ls --device cam-1',
    'session ls --broker broker-2',
  )
    .description('list live sessions')
    .option('--device <id>', 'only those of this device', deviceId)
    .option('--broker <id>', 'only those of this broker')
    .option('--listener <name>', 'only those that came by this listener')
    .action(({ device, broker, listener, ...options }: Common & { device?: string } & Where) =>
      ask(
        io,
        options,
        async (client) => {
          // "None" would be said of a device that there is not as well.
          if (device !== undefined) await client.getDevice(device)
          return client.listSessions({
            ...(device && { deviceIds: [device] }),
            ...(broker && { broker }),
            ...(listener && { listener }),
          })
        },
        (page) => sessionTable(page, io.colour),
      ),
    )

  examples(withCommon(session.command('show'), named), 'session show cam-1', 'session show cam-1:viewer')
    .description('show the live session of a client id: from where it came, and what it did last')
    .argument('<client-id>', 'the device id, or the device id, : and a suffix', clientId)
    .action((id: string, options: Common) =>
      ask(
        io,
        options,
        async (client) => {
          const { items, unheard } = await client.listSessions({ deviceIds: [id.split(':', 1)[0]!] })
          const found = items.filter((one) => one.clientId === id)
          if (found.length === 0) throw nobody(id, unheard)
          return { items: found, unheard }
        },
        (page) => page.items.map((one) => details(one)).join('\n') + missing(page.unheard),
      ),
    )

  examples(withCommon(session.command('kick')), 'session kick cam-1', 'session kick cam-1:viewer --broker broker-2')
    .description('end a live session; its client may come back at once, to keep it out use device disable')
    .argument('<client-id>', 'the device id, or the device id, : and a suffix', clientId)
    .option('--broker <id>', 'at this broker alone')
    .action((id: string, { broker, ...options }: Common & Where) =>
      ask(io, options, (client) => client.kickSession({ clientId: id, ...(broker && { broker }) }), kicked),
    )

  const details = (one: SessionView): string =>
    fields(
      [
        ['client id', one.clientId],
        ['device', one.deviceId],
        ['certificate', one.serial],
        ['broker', `${one.broker}, listener ${one.listener}`],
        ['from', one.remoteAddress],
        ['since', `${one.connectedAt}${one.isResumed ? ', by a TLS session ticket' : ''}`],
        [
          'last packet',
          one.lastPacket &&
            `${[one.lastPacket.type, one.lastPacket.topic].filter(Boolean).join(' ')} at ${one.lastPacket.at}`,
        ],
        ['taken', `${one.packetsIn} packets, ${one.bytesIn} bytes`],
        ['sent', `${one.packetsOut} packets, ${one.bytesOut} bytes`],
      ],
      io.colour,
    )

  const kicked = (receipt: KickReceipt): string =>
    receipt.kicked
      .map((one) => `ended ${visible(`${one.clientId} at ${one.broker}, from ${one.remoteAddress}`)}\n`)
      .join('') + missing(receipt.unheard)
}

type Where = { broker?: string; listener?: string }

export const sessionTable = ({ items, unheard }: SessionPage, colour: boolean): string =>
  table(
    ['client id', 'device', 'broker', 'listener', 'from', 'since'],
    items.map((one) => [one.clientId, one.deviceId, one.broker, one.listener, one.remoteAddress, one.connectedAt]),
    colour,
  ) + missing(unheard)

const whys: Record<Unheard['why'], string> = {
  not_connected: 'is not connected',
  not_asked: 'is of a version that cannot be asked',
  no_answer: 'has not answered',
}

const missing = (unheard: readonly Unheard[]): string =>
  unheard.map(({ broker, why }) => `${visible(broker)} ${whys[why]}; sessions there are not known\n`).join('')

function nobody(id: string, unheard: readonly Unheard[]): FleetError {
  const away = unheard.map(({ broker, why }) => `; ${broker} ${whys[why]}`).join('')
  return new FleetError('not_found', `no live session has the client id ${id}${away}`, { context: { refused: true } })
}

function clientId(text: string): string {
  if (!isClientId(text)) throw new InvalidArgumentError('A client id is a device id, or one with : and a suffix.')
  return text
}
