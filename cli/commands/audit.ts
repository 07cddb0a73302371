import { type Command, Option } from 'commander'
import type { AuditView } from '../../contract/audit-api.ts'
import { openAdminClient } from '../admin-client.ts'
import type { Io } from '../io.ts'
import { styled, visible } from '../output.ts'
import { addEvidence } from './audit-evidence.ts'
import {
  ask,
  type Common,
  deviceId,
  entryForm,
  examples,
  fingerprint,
  instant,
  serialNumber,
  wholeNumber,
  withCommon,
} from './shared.ts'

type Wanted = { action?: string; actor?: string; outcome?: string }

type About = { device?: string; serial?: string; fingerprint?: string }

const followMs = 25_000

export function addAudit(program: Command, io: Io): void {
  const audit = program.command('audit').description('the audit log')

  addEvidence(audit, io)
  examples(
    withCommon(audit.command('tail')),
    'audit tail -n 50',
    'audit tail -f -o json | jq .action',
    'audit tail --action "device.*" --actor operator:anna --since 24h',
  )
    .description('print the last entries; json is one object a line, yaml one document each')
    .option('-n, --lines <number>', 'how many entries', wholeNumber(1, 1_000), 20)
    .option('-f, --follow', 'go on with entries as they are written')
    .option('--action <name>', 'only of this action; with a * at the end, of those that begin so')
    .option('--actor <name>', 'only of this actor, likewise')
    .addOption(new Option('--outcome <which>', 'only those that ended so').choices(['done', 'refused', 'intended']))
    .option('--since <time>', 'from then on, the first ones: a day, an instant, or so long ago as in 24h', instant)
    .action(async (options: Common & Wanted & { lines: number; follow?: boolean; since?: string }) => {
      using client = openAdminClient(options.data)
      const print = (entry: AuditView): void => {
        io.out(entryForm(options.output, entry, line))
      }
      const { action, actor, outcome, since } = options
      const wanted: Wanted = { ...(action && { action }), ...(actor && { actor }), ...(outcome && { outcome }) }
      let page = await client.listAudit({ ...wanted, ...(since && { since }), limit: options.lines })
      page.items.forEach(print)
      if (options.follow !== true) return
      const stop = io.untilSignal()
      while (!stop.aborted) {
        try {
          page = await client.listAudit({ ...wanted, after: page.next, limit: 1_000, waitMs: followMs }, stop)
        } catch (error) {
          if (stop.aborted) return
          throw error
        }
        page.items.forEach(print)
      }
    })

  examples(
    withCommon(audit.command('show')),
    'audit show --device cam-1',
    'audit show --serial 3f9a…',
    'audit show --fingerprint 5f2c…',
  )
    .description(
      'print all that was written about one device or one certificate: asked for, issued, used, renewed, revoked',
    )
    .addOption(new Option('--device <id>', 'a device').argParser(deviceId).conflicts(['serial', 'fingerprint']))
    .addOption(
      new Option('--serial <number>', 'a certificate, by its serial number')
        .argParser(serialNumber)
        .conflicts('fingerprint'),
    )
    .addOption(new Option('--fingerprint <sha256>', 'a certificate, by its fingerprint').argParser(fingerprint))
    .action(({ device, serial, fingerprint, ...options }: Common & About, command: Command) => {
      if (device === undefined && serial === undefined && fingerprint === undefined) {
        command.error('error: name a device, a serial number or a fingerprint')
      }
      const about: About = { ...(device && { device }), ...(serial && { serial }), ...(fingerprint && { fingerprint }) }
      return ask(
        io,
        options,
        (client) => client.listAuditAbout(about),
        ({ about, items }) =>
          items.length === 0 ? `nothing is written about ${visible(about)}\n` : items.map(line).join(''),
      )
    })

  const line = (entry: AuditView): string => {
    const known = [
      'seq',
      'at',
      'hash',
      'action',
      'actor',
      'subject',
      'outcome',
      'reason',
      'requestId',
      'details',
      'remoteAddress',
    ]
    const { details, remoteAddress } = entry as { details?: Record<string, unknown>; remoteAddress?: string }
    const more = [
      ...Object.entries(details ?? {}),
      ...Object.entries(entry).filter(([name]) => !known.includes(name)),
      ...(remoteAddress === undefined ? [] : [['from', remoteAddress] as const]),
    ].map(([name, value]) => `${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
    const outcome = entry.outcome === 'refused' ? styled('red', 'refused', io.colour) : visible(entry.outcome)
    const words = [
      styled('dim', `${entry.seq} ${visible(entry.at)}`, io.colour),
      styled('bold', visible(entry.action), io.colour),
      visible(entry.subject),
      entry.reason === undefined ? outcome : `${outcome} (${visible(entry.reason)})`,
      `by ${visible(entry.actor)}`,
      ...more.map(visible),
    ]
    return `${words.join('  ')}\n`
  }
}
