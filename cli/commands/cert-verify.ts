import type { Command } from 'commander'
import type { VerificationView } from '../../contract/verify-api.ts'
import { toPem } from '../../pki/certificate.ts'
import { FleetError } from '../../runtime/errors.ts'
import { openAdminClient } from '../admin-client.ts'
import { readCertificates } from '../certificate-file.ts'
import type { Io } from '../io.ts'
import { fields, styled, table, visible } from '../output.ts'
import { fixed } from './denials.ts'
import { type Common, examples, print, withCommon } from './shared.ts'

type Options = Common & { listener?: string }
type Verdict = VerificationView['brokers'][number]

export function addCertVerify(cert: Command, io: Io): void {
  examples(
    withCommon(cert.command('verify')),
    'cert verify cam-1.crt',
    'cert verify cam-1.crt --listener partners -o json',
  )
    .description('say what brokers and EST would do with a certificate, and what would change that; nothing is changed')
    .argument('<file>', 'PEM or DER; certificates behind the first are those that its device would send for the chain')
    .option('--listener <name>', 'of this listener alone')
    .action(async (file: string, options: Options) => {
      const pem = readCertificates(file).map((der) => toPem(der))
      using client = openAdminClient(options.data)
      const all = await client.verifyCertificate({ pem: pem.join('') })
      const brokers = all.brokers.filter(({ listener }) => listener === (options.listener ?? listener))
      if (brokers.length === 0) throw unsaid(all, options.listener)
      print(io, options, { ...all, brokers }, (view) => render(view, options.data, io.colour))
      requireAdmitted(file, brokers)
    })
}

function unsaid({ brokers, unheard }: VerificationView, wanted: string | undefined): FleetError {
  const names = [...new Set(brokers.map(({ listener }) => listener))].join(', ')
  if (names !== '') return new FleetError('not_found', `no broker has a listener ${wanted}; there are ${names}`)
  const why = unheard.map(({ broker, why }) => `${broker} (${why})`).join(', ') || 'there is none yet'
  return new FleetError('unavailable', `no broker has said what it would do: ${why}`)
}

/** A device comes to one listener: it is enough that some listener of each broker that has said something takes it. */
function requireAdmitted(file: string, verdicts: readonly Verdict[]): void {
  const admitting = new Set(verdicts.filter(({ isAdmitted }) => isAdmitted).map(({ broker }) => broker))
  const refused = verdicts.find(({ broker }) => !admitting.has(broker))
  if (refused === undefined) return
  const { broker, code = 'internal', message = 'it did not say why' } = refused
  throw new FleetError(code, `${broker} does not admit ${file}: ${message}`, { context: { refused: true } })
}

function render(
  { fingerprint, brokers, unheard, renewal }: VerificationView,
  dataDir: string,
  colour: boolean,
): string {
  const rows = brokers.map(({ isAdmitted, until, ...one }) => [
    ...[one.broker, one.listener, verdictOf({ ...one, isAdmitted }), one.state, one.code],
    isAdmitted ? until : undefined,
  ])
  const [first] = brokers
  const head = fields(
    [
      ['SHA-256', fingerprint],
      ['device', first?.deviceId],
      ['issued by', first?.authority],
    ],
    colour,
  )
  const away = unheard.map(({ broker, why }) => `${visible(broker)} has not said what it would do (${why})\n`)
  return [
    head,
    '\n',
    table(['broker', 'listener', 'verdict', 'found', 'code', 'until'], rows, colour),
    ...away,
    '\n',
    fields(remarks(brokers, renewal), colour),
    ...fixes(brokers, renewal).map((fix) => `\n${styled('bold', 'fix', colour)}  ${fixed(fix, dataDir)}`),
  ].join('')
}

const verdictOf = ({ action, isAdmitted }: Verdict): string =>
  action === 'admit' ? 'admitted' : isAdmitted ? `admitted (${action})` : action === 'reject' ? 'refused' : action

function remarks(brokers: readonly Verdict[], renewal: VerificationView['renewal']): [string, string][] {
  const { isAllowed, label, isLate, code, message } = renewal
  const late = isLate ? ', late, as an operator has allowed' : ''
  return [
    ...listed(
      'why',
      brokers.flatMap(({ message }) => message ?? []),
    ),
    ...listed(
      'asked too',
      brokers.flatMap(({ listener, asks }) => asks.map((what) => `${what} (${listener})`)),
    ),
    ['renewal', isAllowed ? `allowed under the label ${label}${late}` : `refused: ${message} (${code})`],
  ]
}

const listed = (name: string, texts: readonly string[]): [string, string][] =>
  [...new Set(texts)].map((text) => [name, text])

/** Each once: several listeners may want the same. */
function fixes(brokers: readonly Verdict[], renewal: VerificationView['renewal']) {
  const all = [...brokers, renewal].flatMap(({ fix }) => fix ?? [])
  return [...new Map(all.map((fix) => [JSON.stringify([fix.command, fix.setting, fix.edits]), fix])).values()]
}
