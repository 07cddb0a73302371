import { type Command, InvalidArgumentError } from 'commander'
import type { ApprovalView } from '../../contract/admin-api.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { AdminClient } from '../admin-client.ts'
import type { Io } from '../io.ts'
import { fields, table } from '../output.ts'
import { ask, type Common, deviceId, examples, groupNames, named, profileName, withCommon } from './shared.ts'

const shownDigits = 12

type Filter = { all?: boolean; device?: string; profile?: string; label?: string }

export function addApprovals(enroll: Command, io: Io): void {
  const approvals = enroll.command('approvals').description('certificate requests that wait for an operator')

  examples(withCommon(approvals.command('ls'), named), 'enroll approvals ls', 'enroll approvals ls --all -o json')
    .description('list what waits')
    .option('--all', 'also what was decided, until it is forgotten')
    .option('--device <id>', 'only those of this device', deviceId)
    .option('--profile <name>', 'only those of this profile', profileName)
    .option('--label <name>', 'only those under this EST label')
    .action(({ all = false, device, profile, label, ...options }: Common & Filter) =>
      ask(
        io,
        options,
        async (client) => ({
          items: await client.listApprovals({
            ...{ decision: all ? undefined : 'pending', deviceId: device, profile, label },
          }),
        }),
        list,
      ),
    )

  examples(withCommon(approvals.command('show'), named), 'enroll approvals show 3f9ac0d81b22')
    .description('show one request, with the key it is for')
    .argument('<id>', 'request, or the first 8 digits of it and more', requestId)
    .action((id: string, options: Common) => ask(io, options, (client) => find(client, id), details))

  examples(
    withCommon(approvals.command('approve')),
    'enroll approvals approve 3f9ac0d81b22',
    'enroll approvals approve 3f9ac0d81b22 --group site-berlin',
  )
    .description('let the key of this request, and no other, have a certificate')
    .argument('<id>', 'request, or the first 8 digits of it and more', requestId)
    .option('--group <name>', 'group of a device that is created (may be repeated)', groupNames)
    .action((id: string, options: Common & { group?: string[] }) =>
      ask(
        io,
        options,
        async (client) => client.approve((await find(client, id)).id, { groups: options.group ?? [] }),
        details,
      ),
    )

  examples(withCommon(approvals.command('deny')), 'enroll approvals deny 3f9ac0d81b22 --reason "not ours"')
    .description('refuse this request; the device is told the reason')
    .argument('<id>', 'request, or the first 8 digits of it and more', requestId)
    .option('--reason <text>', 'why')
    .action((id: string, options: Common & { reason?: string }) =>
      ask(
        io,
        options,
        async (client) => client.deny((await find(client, id)).id, options.reason ? { reason: options.reason } : {}),
        details,
      ),
    )

  const list = ({ items }: { items: ApprovalView[] }): string =>
    table(
      ['request', 'device', 'profile', 'label', 'from', 'requested', 'decision'],
      items.map((item) => [
        item.id.slice(0, shownDigits),
        item.deviceId,
        item.profile,
        item.label,
        item.remoteAddress,
        item.requestedAt,
        item.decision,
      ]),
      io.colour,
    )

  const details = (view: ApprovalView): string =>
    fields(
      [
        ['request', view.id],
        ['device', view.deviceId],
        ['profile', view.profile],
        ['label', view.label],
        ['key', `${view.keyType} ${view.spkiHash}`],
        ['device is', view.deviceStatus === 'active' ? undefined : view.deviceStatus],
        ['device has', view.currentSerial && `certificate ${view.currentSerial} already`],
        ['proved', view.proved.join(', ') || 'nothing'],
        ['from', view.remoteAddress],
        ['requested', view.requestedAt],
        ['expires', view.expiresAt],
        ['decision', view.decision],
        ['decided', view.decidedAt && `${view.decidedAt} by ${view.decidedBy}`],
        ['reason', view.reason],
        ['certificate', view.serial],
      ],
      io.colour,
    )
}

function requestId(text: string): string {
  const digits = text.toLowerCase()
  if (!/^[0-9a-f]{8,64}$/.test(digits)) throw new InvalidArgumentError('A request is 8 to 64 hexadecimal digits.')
  return digits
}

/** By the first digits too, as long as they are of one request. */
async function find(client: AdminClient, id: string): Promise<ApprovalView> {
  if (id.length === 64) return client.getApproval(id)
  const found = (await client.listApprovals({})).filter((item) => item.id.startsWith(id))
  const [one] = found
  if (one !== undefined && found.length === 1) return one
  const refused = { context: { refused: true } }
  if (one === undefined) throw new FleetError('approval_unknown', `no request begins with ${id}`, refused)
  throw new FleetError('conflict', `${found.length} requests begin with ${id}; give more digits`, refused)
}
