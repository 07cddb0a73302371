import { readFileSync } from 'node:fs'
import { type Command, Option } from 'commander'
import {
  type CertificateReceipt,
  type CertificateView,
  certificateKinds,
  certificateStatuses,
} from '../../contract/admin-api.ts'
import { type DeviceId, statusReasons } from '../../contract/ids.ts'
import { FleetError } from '../../runtime/errors.ts'
import type { Io } from '../io.ts'
import { fields } from '../output.ts'
import { addCertInspect } from './cert-inspect.ts'
import { addCertVerify } from './cert-verify.ts'
import { type CredentialOptions, isCredential, revokeCredential } from './credential.ts'
import {
  ask,
  askPages,
  type Common,
  deviceId,
  duration,
  examples,
  fingerprint,
  instant,
  instantForms,
  named,
  serialNumber,
  withCommon,
} from './shared.ts'
import { brokersOf, change, reasonOption, waiting } from './waiting.ts'

type Filter = {
  device?: string
  expiresIn?: number
  expiresBefore?: string
  kind?: string
  status?: string
  profile?: string
  label?: string
  subject?: string
  issuer?: string
  serial?: string
  fingerprint?: string
  key?: string
  reason?: string
  used?: boolean
  issuedSince?: string
  issuedUntil?: string
  revokedSince?: string
  revokedUntil?: string
}

export function addCert(program: Command, io: Io): void {
  const cert = program.command('cert').description('certificates that this authority has issued')
  addCertInspect(cert, io)
  addCertVerify(cert, io)

  examples(
    withCommon(cert.command('ls'), named),
    'cert ls',
    'cert ls --device cam-1 -o json',
    'cert ls --expires-in 30d',
    'cert ls --status revoked --reason keyCompromise --revoked-since 7d',
  )
    .description('list certificates')
    .option('--device <id>', 'only those of this device', deviceId)
    .option(
      '--expires-in <time>',
      'only those that are good now and will not be then, the first to expire first',
      duration(1, 3_650 * 86_400_000),
    )
    .addOption(
      new Option('--expires-before <time>', 'only those that end before this day or instant, or have ended')
        .argParser(instant)
        .conflicts('expiresIn'),
    )
    .addOption(new Option('--kind <kind>', 'only those of this kind').choices(certificateKinds))
    .addOption(new Option('--status <status>', 'only those with this status').choices(certificateStatuses))
    .option('--profile <name>', 'only those of this profile')
    .option('--label <name>', 'only those that were enrolled under this EST label')
    .option('--subject <name>', 'only those with this subject, or this part of it, as CN=cam-1')
    .option('--issuer <ca>', 'only those of this CA: fleetgate, its fingerprint, or the name of another')
    .option('--serial <serial>', 'only this one', serialNumber)
    .option('--fingerprint <sha256>', 'only the one with this SHA-256', fingerprint)
    .option('--key <sha256>', 'only those for this public key, as cert show and the audit log name it', fingerprint)
    .addOption(new Option('--reason <reason>', 'only those revoked for this, or held').choices(statusReasons))
    .option('--used', 'only those that a device has been seen with')
    .option('--no-used', 'only those that none has been seen with')
    .option('--issued-since <time>', `only those issued from then on: ${instantForms}`, instant)
    .option('--issued-until <time>', 'and before then', instant)
    .option('--revoked-since <time>', 'only those revoked from then on', instant)
    .option('--revoked-until <time>', 'and before then', instant)
    .action(({ kind, status, profile, label, subject, issuer, serial, ...options }: Common & Filter) => {
      const { device, expiresIn, expiresBefore, key, reason, used } = options
      const query = {
        ...{ deviceId: device, kind, status, profile, label, subject, issuer, serial, key, reason },
        ...{ fingerprint: options.fingerprint, used: used?.toString(), expiresInMs: expiresIn, expiresBefore },
        ...{ issuedFrom: options.issuedSince, issuedTo: options.issuedUntil },
        ...{ revokedFrom: options.revokedSince, revokedTo: options.revokedUntil },
      }
      return askPages(
        io,
        options,
        async function* (client) {
          // "None" would be said of a device that there is not as well.
          if (device !== undefined) await client.getDevice(device)
          yield* client.pagesOfCertificates(query)
        },
        columns,
      )
    })

  examples(withCommon(cert.command('show'), named), 'cert show 5f0c3a9e7d21b84460d2f1a7c39be018')
    .description('show one certificate with its PEM')
    .argument('<serial>', 'serial number, hex', serialNumber)
    .action((serial: string, options: Common) => ask(io, options, (client) => client.getCertificate(serial), details))

  examples(withCommon(cert.command('register')), 'cert register cam-1.crt --device cam-1')
    .description('note a certificate of another CA as that of a device, for listeners with pinned certificates')
    .argument('<file>', 'one certificate in PEM')
    .requiredOption('--device <id>', 'the device, which has to be registered', deviceId)
    .action((file: string, options: Common & { device: DeviceId }) => {
      const pem = readCertificate(file)
      return ask(io, options, (client) => client.registerCertificate({ deviceId: options.device, pem }), details)
    })

  waiting(withCommon(cert.command('revoke')), 'cert revoke 5f0c3a9e7d21b84460d2f1a7c39be018 --reason superseded')
    .description(
      'revoke one certificate, of a device, an operator or a broker, and leave the others; all of a device: device revoke',
    )
    .argument('<serial>', 'serial number, hex', serialNumber)
    .addOption(reasonOption())
    .option('--yes', 'do not ask where no operator would be left')
    .action(async (serial: string, options: CredentialOptions) => {
      if (await isCredential(options, serial)) return revokeCredential(io, serial, options)
      return change(io, options, (client, waitMs) => client.revokeCertificate(serial, options.reason, waitMs), {
        render: revoked,
        done: `${serial} is revoked`,
        again: ['cert', 'revoke', serial, '--reason', options.reason],
      })
    })

  const revoked = (receipt: CertificateReceipt): string =>
    fields(
      [
        ['certificate', `${receipt.serial}${receipt.isCurrent ? ` (the current one of ${receipt.deviceId})` : ''}`],
        ['device', receipt.deviceId],
        ['revoked', `${receipt.revokedAt}${receipt.alreadyRevoked ? ' (by an earlier call)' : ''}`],
        ['reason', receipt.reason],
        ['for the same key', receipt.certificates.filter((serial) => serial !== receipt.serial).join(', ')],
        ['device still has', receipt.remaining.join(', ') || 'none: it has to enroll anew'],
        ...brokersOf(receipt),
      ],
      io.colour,
    )

  const columns = {
    head: ['serial', 'kind', 'device', 'profile', 'status', 'not after'],
    row: (view: CertificateView) => [
      ...[view.serial, view.kind, view.deviceId],
      ...[view.profile, view.status, view.notAfter],
    ],
  }

  const details = (view: CertificateView): string =>
    fields(
      [
        ['serial', view.serial],
        ['kind', view.kind],
        ['device', view.deviceId],
        ['profile', view.profile],
        ['status', view.status],
        ['subject', view.subject],
        ['issuer', view.issuer],
        ['issuer serial', view.issuerSerial],
        ['fingerprint', view.fingerprint],
        ['key', view.key],
        ['not before', view.notBefore],
        ['not after', view.notAfter],
        ['first used', view.firstUsedAt],
        ['revoked', view.revokedAt],
        ['reason', view.revocationReason],
      ],
      io.colour,
    ) + (view.pem === undefined ? '' : `${view.pem.trimEnd()}\n`)
}

function readCertificate(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (cause) {
    throw new FleetError('config_invalid', `${path} cannot be read; name a file with one certificate in PEM`, { cause })
  }
}

/** Takes what openssl prints too: upper case, with or without colons. */
