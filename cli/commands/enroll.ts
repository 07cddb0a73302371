import { createPublicKey, type KeyObject } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { type EnrollmentCode, parseEnrollmentCode } from '../../contract/enrollment-code.ts'
import { type DeviceId, isDeviceId } from '../../contract/ids.ts'
import { CredentialFolder, requireOwn } from '../../device-sim/credential-folder.ts'
import { EstClient, EstError, fetchTrust, type MakeCsr } from '../../device-sim/est-client.ts'
import { requestWith } from '../../device-sim/token-key.ts'
import { parseCsr } from '../../pki/csr.ts'
import { type ClientKeyType, createCsr, createKeyAndCsr } from '../../pki/x509.ts'
import { FleetError, systemFault } from '../../runtime/errors.ts'
import { readPrivateFile } from '../../runtime/files.ts'
import { estCall } from '../est-call.ts'
import { aborted, Interrupted, type Io } from '../io.ts'
import { fields } from '../output.ts'
import { addApprovals } from './approvals.ts'
import { addLateRenewals } from './late-renewals.ts'
import { deviceId, duration, estUrl, examples, type Format, folderName, outputOption, print } from './shared.ts'

type Options = {
  url: string
  caFingerprint: string
  out: string
  id?: DeviceId
  token?: string
  tokenFile?: string
  code?: string
  cert?: string
  key?: string
  keyUri?: string
  keyType: ClientKeyType
  timeout: number
  output: Format
}

const weekMs = 7 * 86_400_000

/** `enroll` itself runs on a device; `enroll approvals` is the operator's side of it. */
export function addEnroll(program: Command, io: Io): void {
  const enroll = program
    .command('enroll')
    .enablePositionalOptions()
    .description(
      'on a device: make a key and have it certified; below it, what waits for approval and who may renew late',
    )
    .option('--url <url>', 'EST service, https://host:port or with the path of a label (required)', estUrl)
    .option('--ca-fingerprint <sha256>', 'of the root, as `status` shows it (required)', fingerprint)
    .option('--out <dir>', 'folder for key and certificates (required)', folderName)
    .option('--id <id>', 'device id (default: the name of this machine)', deviceId)
    .option('--token <token>', 'one-time token; others on this machine can read it in the list of processes')
    .option('--token-file <file>', 'the same, from a file')
    .addOption(
      new Option(
        '--code <file>',
        'the line of `token create --qr`, from a file, or with - from standard input',
      ).conflicts(['url', 'caFingerprint', 'id', 'token', 'tokenFile']),
    )
    .option('--cert <pem>', 'certificate that the device has from its factory')
    .option('--key <pem>', 'its key')
    .addOption(
      new Option(
        '--key-uri <uri>',
        'key that is in a PKCS#11 token, pkcs11:…; openssl and curl use it, with the module in PKCS11_MODULE_PATH',
      )
        .argParser(tokenUri)
        .conflicts(['cert', 'key', 'keyType']),
    )
    .addOption(
      new Option('--key-type <type>', 'key to make')
        .choices(['P-256', 'P-384', 'Ed25519', 'RSA-2048'])
        .default('P-256'),
    )
    .addOption(
      new Option('--timeout <time>', 'how long to wait for an approval; the next call goes on waiting')
        .argParser(duration(0, weekMs))
        .default(weekMs, '7d'),
    )
    .addOption(outputOption())
    .action(async (given: Options, command: Command) => {
      const options = given.code === undefined ? given : { ...given, ...(await readCode(given.code, io)) }
      for (const name of ['url', 'caFingerprint', 'out'] as const) {
        const flag = `--${name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`
        if (options[name] === undefined) command.error(`error: required option '${flag}' is not given`)
      }
      if ((options.cert === undefined) !== (options.key === undefined)) {
        command.error("error: '--cert' and '--key' belong together")
      }
      return runEnroll(options, io)
    })
  examples(
    enroll,
    'enroll --url https://gateway:8443 --ca-fingerprint 3f…a9 --id cam-1 --token-file token --out /var/lib/device',
    'enroll --code code.txt --out /var/lib/device',
    'enroll --url https://gateway:8443/.well-known/est/line-1 --ca-fingerprint 3f…a9 --cert idevid.pem --key idevid.key --out id',
  )
  addApprovals(enroll, io)
  addLateRenewals(enroll, io)
}

/** @throws FleetError `request_malformed` without a word of it: there is a token in it */
async function readCode(path: string, io: Io): Promise<EnrollmentCode> {
  const code = parseEnrollmentCode(path === '-' ? await io.readSecret('enrollment code: ') : readText(path))
  if (code !== undefined) return code
  const where = path === '-' ? 'standard input' : path
  throw new FleetError('request_malformed', `${where} holds no enrollment code; it begins with fleetgate://`)
}

async function runEnroll(options: Options, io: Io): Promise<void> {
  const { url, caFingerprint, out, keyType } = options
  const id = options.id ?? ownName()
  const folder = new CredentialFolder(out)
  if (folder.isEnrolled) {
    throw new FleetError('conflict', `${out} holds a certificate already; renew it, or name another folder`)
  }
  // A refusal does not say for whom it was asked.
  if (options.id === undefined) io.err(`asking as ${id}, the name of this machine; --id names another\n`)
  const token = options.tokenFile === undefined ? options.token : readText(options.tokenFile).trim()
  if (token === '') throw new FleetError('request_malformed', `there is no token in ${options.tokenFile ?? '--token'}`)
  const born = options.cert && { certificatePem: readText(options.cert), privateKeyPem: readPrivateFile(options.key!) }
  const trust = await estCall(url, () => fetchTrust(url, caFingerprint))
  const client = new EstClient(url, trust)
  const { key, csr, publicKey } =
    options.keyUri === undefined ? await ownKey(folder, id, keyType) : await tokenKey(folder, id, options.keyUri)
  const ask = () =>
    estCall(url, () =>
      untilDecided(() => client.simpleenroll({ id, token, born: born || undefined, csr }), options, io),
    )
  const certificatePem = await ask()
  const chainPem = certificatePem + trust.intermediatesPem
  requireOwn({ key: publicKey, chainPem, trust }, id)
  folder.keepFirst({ url, rootFingerprint: caFingerprint, id }, trust, { ...key, certificatePem, chainPem })
  print(io, { data: '', output: options.output }, summaryOf(folder), (view) => fields(Object.entries(view), io.colour))
}

type FirstKey = { key: { privateKeyPem: string } | { keyUri: string }; csr: MakeCsr; publicKey: KeyObject }

async function ownKey(folder: CredentialFolder, id: DeviceId, keyType: ClientKeyType): Promise<FirstKey> {
  const { privateKeyPem, csrDer } = await folder.pending(() => createKeyAndCsr({ commonName: id, keyType }))
  // What waits for an approval is the request that was made first; one that names its connection is new for each.
  const csr: MakeCsr = async (challengePassword) =>
    challengePassword === undefined ? csrDer : createCsr({ commonName: id, privateKeyPem, challengePassword })
  return { key: { privateKeyPem }, csr, publicKey: createPublicKey(privateKeyPem) }
}

async function tokenKey(folder: CredentialFolder, id: DeviceId, keyUri: string): Promise<FirstKey> {
  const csrDer = await folder.pendingRequest(keyUri, () => requestWith(keyUri, id))
  const csr: MakeCsr = async (challengePassword) => {
    if (challengePassword === undefined) return csrDer
    const sentence = 'the gateway wants the request bound to its connection, which takes a key that is not in a token'
    throw new FleetError('channel_binding_unavailable', sentence)
  }
  const publicKey = createPublicKey({ key: parseCsr(csrDer).publicKeySpki, format: 'der', type: 'spki' })
  return { key: { keyUri }, csr, publicKey }
}

/** RFC 7030 4.2.3: 202 is asked again with the same request. Once it waits, a gateway that is away for a while is waited for too. */
async function untilDecided(ask: () => Promise<string>, { timeout }: Options, io: Io): Promise<string> {
  const until = performance.now() + timeout
  let stop: AbortSignal | undefined
  for (let waitMs: number | undefined; ; ) {
    try {
      return await ask()
    } catch (error) {
      const isAway = waitMs !== undefined && (!(error instanceof EstError) || error.status === 503)
      const wanted = error instanceof EstError ? error.retryAfterMs : undefined
      if (wanted === undefined && !isAway) throw error
      waitMs = wanted ?? waitMs!
      if (performance.now() + waitMs > until) {
        throw new FleetError('unavailable', 'nobody has approved the request yet; call this again to go on waiting', {
          cause: error,
        })
      }
      if (stop === undefined) io.err('waiting for an operator to approve the request\n')
      stop ??= io.untilSignal()
      await pause(waitMs, stop)
    }
  }
}

async function pause(ms: number, stop: AbortSignal): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  await Promise.race([
    new Promise((resolve) => {
      timer = setTimeout(resolve, ms)
    }),
    aborted(stop),
  ])
  clearTimeout(timer)
  if (stop.aborted) throw new Interrupted('while the request waits; call this again to go on', stop)
}

/** What a device holds, to be shown. */
export function summaryOf(folder: CredentialFolder) {
  const { gateway, serial, notAfter } = folder.describe()
  return { device: gateway.id, folder: folder.path, certificate: serial, expires: notAfter.toISOString() }
}

function ownName(): DeviceId {
  const name = hostname()
  if (isDeviceId(name)) return name
  throw new FleetError('request_malformed', `the name of this machine, ${name}, is no device id; give one with --id`)
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (cause) {
    throw new FleetError('data_damaged', `${path} cannot be read: ${systemFault(cause)}`, { cause })
  }
}

function tokenUri(text: string): string {
  if (!text.startsWith('pkcs11:')) throw new InvalidArgumentError('Give a URI such as pkcs11:token=device;object=key.')
  return text
}

function fingerprint(text: string): string {
  const digits = text.replaceAll(':', '').toLowerCase()
  if (!/^[0-9a-f]{64}$/.test(digits)) throw new InvalidArgumentError('A fingerprint is 64 hexadecimal digits.')
  return digits
}
