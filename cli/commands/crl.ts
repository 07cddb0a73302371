import type { KeyObject } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { type Command, InvalidArgumentError } from 'commander'
import type { CrlView } from '../../contract/crl-api.ts'
import { parseCertificate, parsePem } from '../../pki/certificate.ts'
import { importPublicKey } from '../../pki/public-key.ts'
import { describeRevocationList, isSignedBy, type ListFacts, maxListBytes } from '../../pki/revocation-list.ts'
import { FleetError, systemFault } from '../../runtime/errors.ts'
import type { Io } from '../io.ts'
import { fields, table } from '../output.ts'
import { ask, type Common, examples, outputOption, print, withCommon } from './shared.ts'

/** For a person; `-o json` has all of them. */
const shownEntries = 20

export function addCrl(program: Command, io: Io): void {
  const crl = program.command('crl').description('revocation lists, for whoever has to trust a certificate')

  examples(withCommon(crl.command('ls')), 'crl ls', 'crl ls -o json')
    .description('list those that are served: full ones, deltas, and that of the root')
    .action((options: Common) => ask(io, options, (client) => client.listCrls(), list))

  examples(withCommon(crl.command('show')), 'crl show 3f2a91c0/all.crl', 'crl show 0.crl')
    .description('show one: its number, until when it holds, and where it is')
    .argument('<name>', 'as crl ls has it; the file alone where only one CA has such a file')
    .action((name: string, options: Common) =>
      ask(
        io,
        options,
        async (client) => oneOf((await client.listCrls()).items, name),
        (one) => details(one),
      ),
    )

  examples(withCommon(crl.command('publish')), 'crl publish')
    .description(
      'sign all lists now; without it, a revocation is on its lists at once and the rest are signed on schedule',
    )
    .action((options: Common) =>
      ask(
        io,
        options,
        (client) => client.publishCrls(),
        ({ number }) => fields([['CRL number', String(number)]], io.colour),
      ),
    )

  examples(crl.command('inspect'), 'crl inspect all.crl', 'crl inspect all.crl --issuer issuing.crt -o json')
    .description('read a list from a file, DER or PEM; of anybody')
    .argument('<file>', 'the list', readList)
    .option('--issuer <file>', 'certificate of the CA that has to have signed it, PEM', readIssuer)
    .addOption(outputOption())
    .action((der: Buffer, { issuer, output }: { issuer?: Issuer } & Pick<Common, 'output'>) => {
      const facts = describeRevocationList(der)
      if (issuer !== undefined && !isSignedBy(der, issuer.key))
        throw new FleetError('data_damaged', `the list is not signed by the CA of ${issuer.file}`)
      print(io, { output, data: '' }, { ...facts, ...(issuer && { signedBy: issuer.file }) }, inspected)
    })

  const list = ({ items }: { items: CrlView[] }): string =>
    items.length === 0
      ? 'none are served; enroll.status.url of the configuration says where they are to be, and others then read them\n'
      : table(
          ['list', 'number', 'base', 'this update', 'next update', 'entries', 'URL'],
          items.map((one) => [
            one.name,
            String(one.number),
            one.base === undefined ? undefined : String(one.base),
            one.thisUpdate,
            one.nextUpdate,
            String(one.entries),
            one.url,
          ]),
          io.colour,
        )

  const details = (one: CrlView): string =>
    fields(
      [
        ['list', one.name],
        ['URL', one.url],
        ['CRL number', String(one.number)],
        ['delta to', one.base === undefined ? undefined : `lists from ${one.base} on`],
        ['this update', one.thisUpdate],
        ['next update', one.nextUpdate],
        ['entries', String(one.entries)],
        ['size', `${one.bytes} bytes`],
      ],
      io.colour,
    )

  const inspected = ({ entries, signedBy, ...facts }: ListFacts & { signedBy?: string }): string => {
    const more = entries.length - shownEntries
    return [
      fields(
        [
          ['issuer', facts.issuer],
          ['CRL number', facts.number],
          ['delta to', facts.base && `lists from ${facts.base} on`],
          ['about', facts.scope],
          ['deltas at', facts.freshest],
          ['this update', facts.thisUpdate.toISOString()],
          ['next update', facts.nextUpdate.toISOString()],
          ['signature', signedBy === undefined ? 'not looked at, give --issuer' : `of the CA in ${signedBy}`],
          ['entries', String(entries.length)],
        ],
        io.colour,
      ),
      ...(entries.length === 0
        ? []
        : [
            table(
              ['serial', 'revoked at', 'reason'],
              entries.slice(0, shownEntries).map((one) => [one.serial, one.revokedAt.toISOString(), one.reason]),
              io.colour,
            ),
          ]),
      ...(more > 0 ? [`and ${more} more, see -o json\n`] : []),
    ].join('')
  }
}

function oneOf(items: CrlView[], name: string): CrlView {
  const found = items.filter((one) => one.name === name || one.name.endsWith(`/${name}`))
  if (found.length === 1) return found[0]!
  throw new FleetError(
    'not_found',
    found.length === 0
      ? `there is no list ${name}; crl ls has those that there are`
      : `${name} is ${found.map((one) => one.name).join(' or ')}`,
  )
}

function readList(file: string): Buffer {
  const bytes = readNamed(file)
  return bytes.toString('latin1', 0, 11) === '-----BEGIN ' ? firstBlock(bytes, 'X509 CRL') : bytes
}

type Issuer = { file: string; key: KeyObject }

const readIssuer = (file: string): Issuer => ({
  file,
  key: importPublicKey(parseCertificate(firstBlock(readNamed(file), 'CERTIFICATE')).publicKeySpki),
})

function firstBlock(pem: Buffer, label: string): Buffer {
  const [der] = parsePem(pem.toString('latin1'), label)
  if (der === undefined) throw new InvalidArgumentError(`There is no ${label} in it.`)
  return der
}

function readNamed(file: string): Buffer {
  try {
    // In PEM it is a third longer.
    if (statSync(file).size > maxListBytes * 2) throw new Error('it is larger than any list')
    return readFileSync(file)
  } catch (error) {
    throw new InvalidArgumentError(`It cannot be read: ${systemFault(error)}.`)
  }
}
