import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, suite, test } from 'node:test'
import { AuditVerification } from '../../../cli/audit-verification.ts'
import { checkpointKind, sealKind } from '../../../contract/audit-api.ts'
import { parseCertificate, parsePem } from '../../../pki/certificate.ts'
import { openKeyFile } from '../../../pki/keystore.ts'
import { signStatement } from '../../../pki/statement.ts'
import { createKeyAndCsr } from '../../../pki/x509.ts'
import { chainHash } from '../../../runtime/chain.ts'
import { writeEndpoints } from '../../../runtime/endpoints.ts'
import { certificateOf, EnrollHarness, testConfiguration } from '../../harness/fleet.ts'
import { fleetgate } from '../../harness/stub-io.ts'

// biome-ignore lint/suspicious/noExplicitAny: lines are bent in every way
type Line = any

suite('the audit log as evidence', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
  const path = (name: string): string => join(folder, name)
  let fleet: EnrollHarness
  let whole: Line[]
  before(async () => {
    const audit = { checkpointEntries: 10, checkpointEveryMs: 86_400_000 }
    fleet = await EnrollHarness.start({ config: testConfiguration({ enroll: { audit } }) })
    for (let n = 0; n < 4; n++) await fleet.admin('POST', '/devices', { id: `cam-1-${n}`, profile: 'camera' })
    // The end of the service leaves a checkpoint.
    for (let round = 0; round < 2; round++) {
      await fleet.close()
      await fleet.open()
      await fleet.admin('POST', '/devices', { id: `cam-2-${round}`, profile: 'camera' })
    }
    await fleet.enrolledDevice('cam-9')
    writeEndpoints(fleet.dataDir, { ...fleet.endpoints, mqtts: 'mqtts://localhost:1' })
    const { code, err } = await run('export', '--out', path('whole'), '--data', fleet.dataDir)
    assert.equal(code, 0, err)
    whole = read('whole')
  })
  after(async () => {
    rmSync(folder, { recursive: true })
    await fleet[Symbol.asyncDispose]()
  })

  const run = (...words: string[]) => fleetgate(['audit', ...words])
  const read = (name: string): Line[] =>
    readFileSync(path(name), 'utf8')
      .trimEnd()
      .split('\n')
      .map((text) => JSON.parse(text))
  const linesText = (lines: Line[]): string => lines.map((line) => `${JSON.stringify(line)}\n`).join('')
  const verifyLines = async (lines: Line[], ...more: string[]) => {
    writeFileSync(path('bent'), linesText(lines))
    return run('verify', path('bent'), '--data', path('none'), ...more)
  }
  const entries = (lines: Line[]): Line[] => lines.filter(({ kind }) => kind === 'entry')
  const at = (lines: Line[], seq: number): number =>
    lines.findIndex((line) => line.kind === 'entry' && line.seq === seq)
  const said = ({ body }: Line): Line => JSON.parse(body)

  /** The chain made anew from an entry on, as who has the disk can do. */
  function rewritten(lines: Line[], seq: number, change: (body: string) => string): Line[] {
    let hash = ''
    return lines.map((line) => {
      if (line.kind !== 'entry') return line
      const body = line.seq === seq ? change(line.body) : line.body
      hash = line.seq < seq ? line.hash : chainHash(hash, body)
      return { ...line, body, hash }
    })
  }

  /** A statement signed with a key of this gateway that is there for something else. */
  async function signedByServer(kind: string, body: object): Promise<object> {
    const services = join(fleet.dataDir, 'services', 'enroll')
    const der = parsePem(readFileSync(join(services, 'tls.crt'), 'utf8'), 'CERTIFICATE')[0]!
    const credential = { certificate: parseCertificate(der), signer: openKeyFile(join(services, 'tls.key')) }
    return signStatement(kind, JSON.stringify(body), credential)
  }

  test('an export holds without the gateway, and what it says is what the gateway has', async () => {
    const { code, out } = await run('verify', path('whole'), '-o', 'json', '--data', path('none'))
    assert.equal(code, 0)
    const found = JSON.parse(out)
    assert.deepEqual([found.entries, found.first, found.last], [entries(whole).length, 1, entries(whole).length])
    assert.equal(found.rootFingerprint, fleet.endpoints.rootFingerprint)
    assert.ok(found.checkpoints >= 2, `${found.checkpoints} checkpoints`)
    const online = await run('verify', '--data', fleet.dataDir)
    assert.equal(online.code, 0)
    assert.match(online.out, /^holds\s+yes\nentries\s+\d+\nfrom\s+1\n/)
    const to = await run('verify', path('whole'), '--root', fleet.endpoints.rootFingerprint)
    assert.equal(to.code, 0)
  })

  test('every way to bend an export is found, and said in a sentence that names the place', async () => {
    const last = entries(whole).length
    const checkpoint = whole.findIndex(({ kind }) => kind === 'checkpoint')
    const other = whole.findLastIndex(({ kind }) => kind === 'checkpoint')
    const place = said(whole[other]).seq
    const without = (from: number, count = 1): Line[] => whole.toSpliced(from, count)
    const cut = whole.slice(0, at(whole, last))
    const changed = (body: string): string => body.replace('cam-1-2', 'cam-1-3')
    const aboutDevice = entries(whole).find(({ body }) => body.includes('cam-1-2')).seq
    const foreign = { kind: 'checkpoint', ...(await signedByServer(checkpointKind, said(whole[other]))) }
    const bent: [string, Line[], RegExp][] = [
      ['a changed entry', whole.with(at(whole, 5), { ...whole[at(whole, 5)], body: '{}' }), /breaks at entry 5:/],
      ['one removed in the middle', without(at(whole, 5)), /entry 5 is missing/],
      [
        'several removed',
        without(at(whole, last - 2), 3),
        /ends with entry \d+, and by its seal with entry \d+: the rest was cut off/,
      ],
      ['two exchanged', whole.with(at(whole, 5), whole[at(whole, 4)]), /entry 4 stands where entry 5 belongs/],
      ['a cut tail', cut, new RegExp(`no seal behind entry ${last - 1}`)],
      ['a cut tail with the seal left', [...cut, whole.at(-1)], /the rest was cut off/],
      [
        'a chain written anew',
        rewritten(whole, aboutDevice, changed),
        /checkpoint \d+ of \S+ says otherwise of entry \d+: the log was written anew/,
      ],
      [
        'one written anew without checkpoints',
        rewritten(whole, aboutDevice, changed).filter(({ kind }) => kind !== 'checkpoint'),
        /the seal says otherwise/,
      ],
      [
        'a checkpoint in the place of another',
        whole.with(checkpoint, whole[other]),
        new RegExp(`is about entry ${place}, and stands behind`),
      ],
      [
        'one that is removed between two',
        without(whole.findIndex((line, n) => n > checkpoint && line.kind === 'checkpoint')),
        /checkpoint 3 of \S+ does not follow checkpoint 1/,
      ],
      ['the last one removed', without(other), /it has checkpoints 1 to \d+, and by its seal 1 to \d+/],
      ['the first one removed', without(checkpoint), /it has checkpoints 2 to \d+, and by its seal 1 to \d+/],
      [
        'one of a key for something else',
        whole.with(other, foreign),
        /cannot be believed: its key is not one for the audit log/,
      ],
      [
        'one that says something else',
        whole.with(other, { ...whole[other], body: whole[other].body.replace(`"seq":${place}`, `"seq":${place + 1}`) }),
        /signature does not fit/,
      ],
      [
        'a seal of a key for something else',
        [...whole.slice(0, -1), { kind: 'seal', ...(await signedByServer(sealKind, said(whole.at(-1)))) }],
        /the seal cannot be believed/,
      ],
      [
        'a checkpoint that is called a seal',
        [...whole.slice(0, -1), { ...whole[other], kind: 'seal' }],
        /the seal cannot be read/,
      ],
      ['no beginning', whole.slice(1), /beginning, which says where it starts, is missing/],
      ['two beginnings', [whole[0], ...whole], /begins twice/],
      ['something behind the end', [...whole, whole[1]], /behind the seal/],
      ['no CA certificate', whole.with(0, { ...whole[0], authorities: [] }), /no root/],
      ['a CA certificate that is none', whole.with(0, { ...whole[0], authorities: ['x'] }), /cannot be read/],
      [
        'a root that is none',
        whole.with(0, { ...whole[0], authorities: whole[0].authorities.toReversed() }),
        /is no root/,
      ],
      [
        'a later beginning',
        without(at(whole, 1)).with(0, { ...whole[0], from: { seq: 1, hash: whole[at(whole, 1)].hash } }),
        /starts behind entry 1, and by its seal behind entry 0/,
      ],
      ['what is no line of an export', whole.with(3, { kind: 'entry' }), /line 4 of .* is not of an export/],
    ]
    for (const [how, lines, sentence] of bent) {
      const { code, err, out } = await verifyLines(lines)
      assert.equal(code, 1, how)
      assert.match(err, sentence, how)
      assert.match(err, /audit_broken/, how)
      assert.equal(out, '', how)
    }
  })

  test('an export of another gateway is refused where the root is named', async () => {
    const { code, err } = await verifyLines(whole, '--root', 'ab'.repeat(32))
    assert.equal(code, 1)
    assert.match(err, /it is of another gateway/)
    assert.equal((await verifyLines(whole, '--root', 'ab')).code, 2)
  })

  test('a part of the log holds by itself', async () => {
    const { at: since } = said(entries(whole)[6])
    const { code, err } = await run('export', '--out', path('part'), '--since', since, '--data', fleet.dataDir)
    assert.equal(code, 0, err)
    const part = read('part')
    assert.ok(said(entries(part)[0]).at >= since)
    assert.ok(entries(part)[0].seq > 1 && entries(part)[0].seq <= 7)
    assert.equal((await run('verify', path('part'))).code, 0)
    const none = await run('export', '--out', path('none.jsonl'), '--until', '2020-01-01', '--data', fleet.dataDir)
    assert.match(none.out, /^0 entries/)
    assert.equal((await run('verify', path('none.jsonl'))).code, 0)
  })

  test('a later export continues an earlier one, or it was written anew', async () => {
    await fleet.admin('POST', '/devices', { id: 'cam-later', profile: 'camera' })
    await run('export', '--out', path('later'), '--data', fleet.dataDir)
    assert.equal((await run('verify', path('later'), '--continues', path('whole'))).code, 0)
    const shorter = await run('verify', path('whole'), '--continues', path('later'))
    assert.match(shorter.err, /which the earlier export ends with, is not in it/)
    const other = new AuditVerification({ continues: { seq: 5, hash: 'ab'.repeat(32) } })
    assert.throws(() => {
      for (const line of whole) other.take(line)
    }, /entry 5 is another one than the earlier export ends with/)
  })

  test('the life of a certificate is found by its serial number, its fingerprint and its device, and what is of others is not', async () => {
    const device = await fleet.enrolledDevice('cam-life')
    const { privateKeyPem } = await createKeyAndCsr({ commonName: 'unused' })
    const renewed = certificateOf(await fleet.reenroll(device, await fleet.renewalCsr(device, privateKeyPem)))
    await fleet.admin('POST', '/devices/cam-life/disable', {})
    await fleet.admin('POST', '/devices/cam-life/revoke', { reason: 'keyCompromise', waitMs: 1 })
    const actions = async (...about: string[]): Promise<string[]> => {
      const { code, out, err } = await run('show', ...about, '-o', 'json', '--data', fleet.dataDir)
      assert.equal(code, 0, err)
      return JSON.parse(out).items.map(({ action, outcome }: Line) =>
        outcome === 'done' ? action : `${action} ${outcome}`,
      )
    }
    const { body } = await fleet.admin('GET', `/certificates/${device.serial}`)
    const life = await actions('--serial', device.serial)
    assert.deepEqual(life, [
      'certificate.issued intended',
      'certificate.issued',
      'certificate.used',
      // The one that it was renewed with.
      'certificate.issued',
      'device.held',
      'device.revoked',
      'receipt.given',
    ])
    assert.deepEqual(await actions('--fingerprint', body.fingerprint), life)
    const next = await actions('--serial', renewed.serial)
    assert.deepEqual(next, [
      'certificate.issued intended',
      'certificate.issued',
      'device.held',
      'device.revoked',
      'receipt.given',
    ])
    const all = await actions('--device', 'cam-life')
    assert.deepEqual(all.slice(0, 2).toSorted(), ['device.created', 'token.created'])
    assert.equal(all.filter((action) => action.startsWith('certificate.issued')).length, 4)
    const page = await fleet.admin('GET', '/audit/about?device=cam-life&limit=2')
    const rest = await fleet.admin('GET', `/audit/about?device=cam-life&after=${encodeURIComponent(page.body.next)}`)
    assert.deepEqual([page.body.items.length, rest.body.items.length], [2, all.length - 2])
    const none = await run('show', '--device', 'cam-none', '--data', fleet.dataDir)
    assert.equal(none.out, 'nothing is written about device:cam-none\n')
    assert.equal((await run('show', '--fingerprint', 'ab'.repeat(32), '--data', fleet.dataDir)).code, 3)
    assert.equal((await run('show', '--data', fleet.dataDir)).code, 2)
    assert.equal((await fleet.admin('GET', '/audit/about?device=a&serial=0a')).status, 400)
  })

  test('the log is listed by action, actor, outcome and time', async () => {
    const listed = async (...options: string[]): Promise<Line[]> => {
      const { out } = await run('tail', '-n', '1000', ...options, '-o', 'json', '--data', fleet.dataDir)
      return out
        .trimEnd()
        .split('\n')
        .map((text) => JSON.parse(text))
    }
    const all = await listed()
    for (const [options, wanted] of [
      [['--action', 'device.created'], ({ action }: Line) => action === 'device.created'],
      [
        ['--action', 'device.*', '--actor', 'operator:*'],
        ({ action, actor }: Line) => /^device\./.test(action) && /^operator:/.test(actor),
      ],
      [['--outcome', 'intended'], ({ outcome }: Line) => outcome === 'intended'],
      [['--since', all[8].at], ({ at }: Line) => at >= all[8].at],
    ] as const) {
      const found = await listed(...options)
      assert.ok(found.length > 0)
      assert.deepEqual(found, all.filter(wanted))
    }
    assert.equal((await run('tail', '--since', 'yesterday')).code, 2)
  })

  test('an export goes to standard output where no file is named, and over no file that there is', async () => {
    const { out } = await run('export', '--data', fleet.dataDir)
    assert.deepEqual(out.trimEnd().split('\n').slice(0, 3), linesText(whole.slice(0, 3)).trimEnd().split('\n'))
    const digest = createHash('sha256')
      .update(readFileSync(path('whole')))
      .digest('hex')
    const { code, err } = await run('export', '--out', path('whole'), '--data', fleet.dataDir)
    assert.equal(code, 1)
    assert.match(err, /cannot be made/)
    assert.equal(
      createHash('sha256')
        .update(readFileSync(path('whole')))
        .digest('hex'),
      digest,
    )
    assert.equal((await run('verify', path('nowhere'))).code, 2)
  })

  test('a log of more entries than a page of the API has is exported and verified to its end', async () => {
    const devices = Array.from({ length: 1_000 }, (_, n) => ({ id: `many-${n}`, profile: 'camera' }))
    assert.equal((await fleet.admin('POST', '/devices/import', { devices })).status, 200)
    const { out } = await run('export', '--out', path('long'), '--data', fleet.dataDir)
    const long = entries(read('long'))
    assert.ok(long.length > 1_000 && out.startsWith(`${long.length} entries`), out)
    for (const file of [[path('long')], []]) {
      const { code, out, err } = await run('verify', ...file, '-o', 'json', '--data', fleet.dataDir)
      assert.equal(code, 0, err)
      assert.equal(JSON.parse(out).last, long.length)
    }
  })
})
