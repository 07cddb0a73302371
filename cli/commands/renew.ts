import { createPublicKey, X509Certificate } from 'node:crypto'
import { join } from 'node:path'
import { type Command, Option } from 'commander'
import { CredentialFolder, type Held, renewalDue, requireOwn } from '../../device-sim/credential-folder.ts'
import { EstClient, fetchTrust } from '../../device-sim/est-client.ts'
import { certificateOf, nextKeyFor, renewIdentity } from '../../device-sim/identity.ts'
import { renewWith } from '../../device-sim/token-key.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import { estCall } from '../est-call.ts'
import type { Io } from '../io.ts'
import { fields } from '../output.ts'
import { summaryOf } from './enroll.ts'
import { examples, type Format, folderName, outputOption, print, wholeNumber } from './shared.ts'

type Options = { dir: string; check?: boolean; force?: boolean; at: number; output: Format }

export function addRenew(program: Command, io: Io): void {
  const renew = program
    .command('renew')
    .description('on a device: renew its certificate, for a new key, when that is due')
    .requiredOption('--dir <dir>', 'folder that `enroll` made (required)', folderName)
    .option('--check', 'only tell: exit code 3 when it is due')
    .option('--force', 'renew now')
    .addOption(
      new Option(
        '--at <percent>',
        'part of its life at which it is due; each certificate up to 5 later, at its own time',
      )
        .argParser(wholeNumber(1, 95))
        .default(67),
    )
    .addOption(outputOption())
    .action((options: Options) => runRenew(options, io))
  examples(renew, 'renew --dir /var/lib/device', 'renew --dir /var/lib/device --check')
}

async function runRenew({ dir, check, force, at, output }: Options, io: Io): Promise<void> {
  const folder = new CredentialFolder(dir)
  const { gateway, identity } = folder.read()
  requireClock(identity.certificatePem, new Date())
  const due = renewalDue(identity.certificatePem, at / 100)
  const isDue = force === true || due <= new Date()
  const tell = (renewed: boolean): void => {
    const next = renewed ? renewalDue(folder.read().identity.certificatePem, at / 100) : due
    const view = { ...summaryOf(folder), due: next.toISOString(), renewed: renewed ? 'yes' : 'no' }
    print(io, { data: '', output }, view, (shown) => fields(Object.entries(shown), io.colour))
  }
  if (check || !isDue) {
    tell(false)
    if (!isDue) return
    throw new FleetError('renewal_due', `the certificate is due for renewal since ${due.toISOString()}`, {
      context: { refused: true },
    })
  }
  const { url, rootFingerprint, id } = gateway
  const trust = await estCall(url, () => fetchTrust(url, rootFingerprint))
  const keep = (renewed: Held): void => {
    const { chainPem } = renewed
    const key =
      'keyUri' in renewed
        ? new X509Certificate(identity.certificatePem).publicKey
        : createPublicKey(renewed.privateKeyPem)
    requireOwn({ key, chainPem, trust }, id)
    folder.keep(renewed)
    tell(true)
  }
  if ('keyUri' in identity) {
    const { keyUri } = identity
    const files = { root: join(dir, 'ca.pem'), chain: join(dir, 'current', 'chain.pem') }
    const certificatePem = await estCall(url, () => renewWith(keyUri, url, files))
    return keep({ keyUri, certificatePem, chainPem: certificatePem + trust.intermediatesPem })
  }
  const client = new EstClient(url, trust)
  // On disk before anybody hears of it: a disk that takes nothing shows here, and an answer that is lost loses no key.
  const key = folder.pendingKey(() => nextKeyFor(identity))
  const renewed = await estCall(url, () => renewIdentity(client, identity, key)).catch((error: unknown) => {
    if (isFleetError(error, 'key_compromised')) folder.dropPending()
    throw error
  })
  keep(renewed)
}

const skewMs = 3_600_000

/** A clock that is far behind calls nothing due until the certificate has ended. */
function requireClock(certificatePem: string, now: Date): void {
  const { notBefore } = certificateOf(certificatePem)
  if (now.getTime() > notBefore.getTime() - skewMs) return
  const sentence = `the certificate begins at ${notBefore.toISOString()}, and the clock of this machine says ${now.toISOString()}`
  throw new FleetError('certificate_not_yet_valid', `${sentence}; set the clock`)
}
