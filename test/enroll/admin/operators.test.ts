import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import type { ClientRequest } from 'node:http'
import { Agent, request } from 'node:https'
import { join } from 'node:path'
import { after, before, suite, test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { includesRole, type Role, roles } from '../../../contract/operator-api.ts'
import { routes } from '../../../enroll/admin/table.ts'
import { supersedeOperatorCertificates } from '../../../enroll/ca/operators.ts'
import { openDatabase } from '../../../enroll/registry/database.ts'
import { Registry } from '../../../enroll/registry/registry.ts'
import { parseCertificate, parsePem, toPem } from '../../../pki/certificate.ts'
import { createKeyAndCsr } from '../../../pki/x509.ts'
import { writeEndpoints } from '../../../runtime/endpoints.ts'
import { EnrollHarness } from '../../harness/fleet.ts'
import { fleetgate } from '../../harness/stub-io.ts'

type Credential = { key: string; cert: string }
type Entry = { action: string; subject: string; actor: string }

suite('operators and their roles', () => {
  let fleet: EnrollHarness
  let skewMs = 0
  let stoppedAt: Date | undefined
  const credentials = {} as Record<Role, Credential>
  before(async () => {
    fleet = await EnrollHarness.start({ clock: () => stoppedAt ?? new Date(Date.now() + skewMs) })
    for (const role of roles) credentials[role] = await fleet.newOperator(`the-${role}`, role)
  })
  after(() => fleet[Symbol.asyncDispose]())

  const as = async (credential: Credential, method: string, path: string, body?: unknown) => {
    const answer = await fleet.ask(`${fleet.endpoints.admin}/v1${path}`, {
      method,
      ...credential,
      agent: fleet.kept,
      ...(body === undefined ? {} : { headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) }),
    })
    return { status: answer.status, body: JSON.parse(answer.body) }
  }

  test('every route has a role: each below it is refused by name, it and each above pass', async () => {
    const calls = routes.flatMap(({ method, path, role, roleForOthers }) =>
      (method === 'GET' ? ['GET', 'HEAD'] : [method]).map((verb) => ({
        verb,
        path: path.replaceAll(/:\w+/g, 'x'),
        role: roleForOthers ?? role,
      })),
    )
    const passing: string[] = []
    for (const role of roles) {
      const agent = new Agent({ keepAlive: true, ca: fleet.root, ...credentials[role] })
      try {
        for (const { verb, path, role: wanted } of calls) {
          const { status, body } = await fleet.ask(`${fleet.endpoints.admin}${path}`, { method: verb, agent })
          const line = `${role} ${verb} ${path} ${status}`
          if (!includesRole(role, wanted)) {
            assert.equal(status, 403, line)
            if (verb === 'HEAD') continue
            const { code, detail } = JSON.parse(body)
            assert.equal(code, 'role_insufficient', line)
            assert.match(detail, new RegExp(`takes the role ${wanted}; operator:the-${role} has ${role}`))
          } else {
            assert.notEqual(status, 401, line)
            assert.ok(status < 500, line)
            if (status === 403) assert.doesNotMatch(body, /role_insufficient|forbidden/, line)
            passing.push(line)
          }
        }
      } finally {
        agent.destroy()
      }
    }
    assert.ok(passing.length > routes.length)
    assert.deepEqual([...new Set(routes.map(({ role }) => role))].toSorted(), [...roles].toSorted())
  })

  test('an operator who is disabled, or whose role is lowered, meets it with the next request; the connection of one who is out ends', async () => {
    const agent = new Agent({
      keepAlive: true,
      ca: fleet.root,
      ...(await fleet.newOperator('ann@example.org', 'operator')),
    })
    const kick = async () =>
      JSON.parse(
        (
          await fleet.ask(`${fleet.endpoints.admin}/v1/policy`, {
            method: 'PUT',
            headers: { 'Content-Type': 'application/json' },
            body: '{}',
            agent,
          })
        ).body,
      ).code
    const ended = async (): Promise<void> => {
      while (Object.keys(agent.freeSockets).length > 0) await turn()
    }
    try {
      assert.equal(await kick(), 'request_malformed')
      const change = (body: unknown) => fleet.admin('PATCH', '/operators/ann@example.org', body)
      assert.equal((await change({ role: 'viewer' })).body.role, 'viewer')
      assert.equal(await kick(), 'role_insufficient')
      assert.equal((await change({ role: 'operator', status: 'disabled' })).body.status, 'disabled')
      await ended()
      assert.equal(await kick(), 'operator_disabled')
      await change({ status: 'active' })
      assert.equal(await kick(), 'request_malformed')
      assert.equal((await change({})).status, 400)
      assert.equal((await fleet.admin('DELETE', '/operators/ann@example.org')).body.status, 'removed')
      await ended()
      assert.equal(await kick(), 'certificate_revoked')
    } finally {
      agent.destroy()
    }
    const { items } = (await fleet.admin('GET', '/operators')).body
    assert.ok(items.every(({ name }: { name: string }) => name !== 'ann@example.org'))
    const back = await fleet.admin('PATCH', '/operators/ann@example.org', { status: 'active' })
    assert.deepEqual([back.status, back.body.code], [404, 'operator_unknown'])
    await assert.rejects(fleet.newOperator('ann@example.org', 'viewer'), /a name is given once/)
  })

  test('what no operator can be made of is refused, and the same request has one effect', async () => {
    const { csrDer } = await createKeyAndCsr({ commonName: 'anything' })
    const csr = toPem(csrDer, 'CERTIFICATE REQUEST')
    const create = (body: unknown, key = 'operator-0001') =>
      fleet.admin('POST', '/operators', body, { 'Idempotency-Key': key })
    const first = await create({ name: 'bob', role: 'viewer', csr })
    const again = await create({ name: 'bob', role: 'viewer', csr })
    assert.deepEqual([first.status, again.status, again.body], [201, 201, first.body])
    const other = await createKeyAndCsr({ commonName: 'anything' })
    const renewed = { csr: toPem(other.csrDer, 'CERTIFICATE REQUEST') }
    assert.equal((await fleet.admin('POST', '/operators/bob/renew', renewed)).status, 201)
    const late = await create({ name: 'bob', role: 'viewer', csr })
    assert.equal(late.body.certificate, first.body.certificate, 'each is answered with the certificate of its own key')
    const refused = [
      await create({ name: 'bob', role: 'viewer', csr }, 'operator-0002'),
      await create({ name: 'a:b', role: 'viewer', csr }, 'operator-0003'),
      await create({ name: 'eve', role: 'root', csr }, 'operator-0004'),
      await create({ name: 'eve', role: 'viewer', csr: 'x' }, 'operator-0005'),
      await create({ name: 'eve', role: 'viewer', csr: csr + csr }, 'operator-0006'),
      await fleet.admin('PATCH', '/operators/nobody', { role: 'viewer' }),
    ]
    assert.deepEqual(
      refused.map(({ body }) => body.code),
      [
        'operator_exists',
        'request_malformed',
        'request_malformed',
        'csr_malformed',
        'csr_malformed',
        'operator_unknown',
      ],
    )
    const entries = (await fleet.admin('GET', '/audit?limit=1000')).body.items
    const made = entries.filter(({ subject }: { subject: string }) => subject === 'operator:bob')
    assert.deepEqual(
      made.map(({ action, actor, details }: Record<string, unknown>) => [action, actor, details]),
      [['operator.created', 'operator:operator', { role: 'viewer', status: 'active' }]],
    )
  })

  test('fleetgate operator makes one, whose folder is what --data names from then on, wherever it is put', async () => {
    const { est, admin, rootFingerprint, rootCertificate, operatorCertificate, operatorKey } = fleet.endpoints
    const own = { est, admin, rootFingerprint, rootCertificate, operatorCertificate, operatorKey }
    writeEndpoints(fleet.dataDir, { ...own, mqtts: 'mqtts://localhost:1' })
    const made = join(fleet.dataDir, 'made')
    const out = join(fleet.dataDir, 'moved')
    const created = await fleetgate([
      'operator',
      'create',
      'cli',
      '--role',
      'viewer',
      '--out',
      made,
      '--data',
      fleet.dataDir,
    ])
    assert.equal(created.code, 0, created.err)
    assert.match(created.out, /^name +cli\nrole +viewer\nstatus +active\n/)
    renameSync(made, out)
    assert.equal(statSync(join(out, 'operator.key')).mode & 0o777, 0o600)
    const verbs = (...words: string[]) => fleetgate([...words, '--data', out])
    assert.equal((await verbs('status')).code, 0)
    const refused = await verbs('device', 'create', 'cam-cli', '--profile', 'camera')
    assert.deepEqual([refused.code, /takes the role enroller/.test(refused.err)], [3, true])
    const change = (...words: string[]) => fleetgate(['operator', ...words, '--data', fleet.dataDir])
    assert.match((await change('set-role', 'cli', 'enroller')).out, /role +enroller/)
    assert.equal((await verbs('device', 'create', 'cam-cli', '--profile', 'camera')).code, 0)
    assert.match((await change('disable', 'cli')).out, /disabled/)
    assert.match((await verbs('status')).err, /the operator cli is disabled \(operator_disabled\)/)
    assert.match((await change('enable', 'cli')).out, /active/)
    assert.match((await change('ls')).out, /^cli +enroller +active/m)
    assert.match((await change('rm', 'cli')).out, /removed/)
    assert.match((await change('show', 'cli')).out, /removed/)
    const twice = await fleetgate([
      'operator',
      'create',
      'x',
      '--role',
      'viewer',
      '--out',
      out,
      '--data',
      fleet.dataDir,
    ])
    assert.deepEqual([twice.code, /operator.crt is there already/.test(twice.err)], [1, true])
    const csr = join(fleet.dataDir, 'own.csr')
    writeFileSync(csr, toPem((await createKeyAndCsr({ commonName: 'own' })).csrDer, 'CERTIFICATE REQUEST'))
    const folder = join(fleet.dataDir, 'own')
    const own2 = await fleetgate([
      'operator',
      'create',
      'own',
      '--role',
      'viewer',
      '--csr',
      csr,
      '--out',
      folder,
      '--data',
      fleet.dataDir,
    ])
    assert.equal(own2.code, 0, own2.err)
    assert.deepEqual(readdirSync(folder).toSorted(), ['endpoints.json', 'operator.crt', 'root.crt'])
    for (const words of [
      ['create', 'a:b', '--role', 'viewer', '--out', 'x'],
      ['set-role', 'cli', 'root'],
      ['create', 'a', '--out', 'x'],
    ]) {
      assert.equal((await change(...words)).code, 2)
    }
  })

  const bearer = async (token: string, method = 'GET', path = '/status', body?: unknown) => {
    const answer = await fleet.ask(`${fleet.endpoints.admin}/v1${path}`, {
      method,
      headers: {
        Authorization: `Bearer ${token}`,
        ...(body === undefined ? {} : { 'Content-Type': 'application/json' }),
      },
      agent: fleet.kept,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    return { status: answer.status, headers: answer.headers, body: JSON.parse(answer.body) }
  }

  test('an API token opens what its role does, without a certificate, until it expires or is removed', async () => {
    const create = (body: object, headers = {}) => fleet.admin('POST', '/api-tokens', body, headers)
    const made = await create({ name: 'ci', role: 'enroller', ttlMs: 3_600_000 })
    assert.equal(made.status, 201)
    const { token } = made.body
    assert.match(token, /^fgat_ci_[A-Za-z0-9_-]{43}$/)
    assert.equal((await bearer(token)).status, 200)
    assert.equal((await bearer(token, 'POST', '/devices', { id: 'ci-1', profile: 'camera' })).status, 201)
    const { items } = (await fleet.admin('GET', '/audit?limit=1')).body
    assert.deepEqual([items[0].actor, items[0].subject], ['api-token:ci', 'device:ci-1'])
    const above = [
      await bearer(token, 'POST', '/api-tokens', { name: 'mine', role: 'viewer' }),
      await bearer(token, 'POST', '/operators', { name: 'me', role: 'viewer', csr: 'x' }),
      await bearer(token, 'PATCH', '/operators/operator', { role: 'viewer' }),
      await bearer(token, 'DELETE', '/api-tokens/ci'),
    ]
    assert.deepEqual(
      above.map(({ status, body }) => [status, body.code]),
      Array(4).fill([403, 'role_insufficient']),
    )
    const [listed] = (await fleet.admin('GET', '/api-tokens')).body.items
    assert.partialDeepStrictEqual(listed, {
      name: 'ci',
      role: 'enroller',
      createdBy: 'operator:operator',
      lastUsedFrom: '127.0.0.1',
    })
    assert.deepEqual([listed.token, listed.digest], [undefined, undefined])
    const refused = [
      await create({ name: 'ci', role: 'viewer' }),
      await create({ name: 'c_i', role: 'viewer' }),
      await create({ name: 'ci-2', role: 'viewer', ttlMs: 1 }),
      await fleet.admin('DELETE', '/api-tokens/nobody'),
    ]
    assert.deepEqual(
      refused.map(({ body }) => body.code),
      ['api_token_exists', 'request_malformed', 'request_malformed', 'api_token_unknown'],
    )
    const key = { 'Idempotency-Key': 'api-token-0001' }
    assert.equal((await create({ name: 'once', role: 'viewer' }, key)).status, 201)
    assert.match((await create({ name: 'once', role: 'viewer' }, key)).body.detail, /made once before/)
    skewMs = 3_600_000
    const late = await bearer(token)
    skewMs = 0
    assert.deepEqual([late.status, late.body.code], [401, 'api_token_expired'])
    assert.equal((await fleet.admin('DELETE', '/api-tokens/ci')).body.name, 'ci')
    const gone = await bearer(token)
    assert.deepEqual(
      [gone.status, gone.body.code, gone.headers['www-authenticate']],
      [401, 'api_token_invalid', 'Bearer realm="fleetgate"'],
    )
  })

  test('who has no standing any more when the body of a request is there gets nothing for what it had when it began', async (t) => {
    const { token } = (await fleet.admin('POST', '/api-tokens', { name: 'slow', role: 'admin' })).body
    const ben = await fleet.newOperator('ben', 'admin')
    const body = JSON.stringify({ name: 'heir', role: 'admin' })
    const begin = async (shown: { headers?: Record<string, string> } & Partial<Credential>) => {
      const length = { 'Content-Type': 'application/json', 'Content-Length': body.length, Expect: '100-continue' }
      const asked = request(`${fleet.endpoints.admin}/v1/api-tokens`, {
        ...{ method: 'POST', ca: fleet.root, agent: false, ...shown },
        headers: { ...length, ...shown.headers },
      })
      asked.flushHeaders()
      await once(asked, 'continue')
      return asked
    }
    const finish = async (asked: ClientRequest) => {
      const [response] = await once(asked.end(body), 'response')
      return [response.statusCode, JSON.parse((await response.setEncoding('utf8').toArray()).join('')).code]
    }
    const byToken = await begin({ headers: { Authorization: `Bearer ${token}` } })
    const byCertificate = await begin(ben)
    t.after(() => [byToken, byCertificate].map((asked) => asked.destroy()))
    assert.equal((await fleet.admin('DELETE', '/api-tokens/slow')).status, 200)
    assert.equal((await fleet.admin('PATCH', '/operators/ben', { role: 'enroller' })).status, 200)
    assert.deepEqual(await finish(byToken), [401, 'api_token_invalid'])
    assert.deepEqual(await finish(byCertificate), [403, 'role_insufficient'])
  })

  test('who waits for the audit log to grow is not told by it that its standing is gone', async () => {
    const { token } = (await fleet.admin('POST', '/api-tokens', { name: 'waiting', role: 'viewer' })).body
    const { next } = (await fleet.admin('GET', '/audit?limit=1')).body
    const waiting = bearer(token, 'GET', `/audit?after=${next}&subject=api-token:waiting&waitMs=30000`)
    assert.equal((await bearer(token)).status, 200)
    assert.equal((await fleet.admin('DELETE', '/api-tokens/waiting')).status, 200)
    assert.deepEqual([(await waiting).status, (await waiting).body.code], [401, 'api_token_invalid'])
  })

  test('of what a token or an operator asks for without end, the audit log has nothing behind what takes its standing', async () => {
    const { token } = (await fleet.admin('POST', '/api-tokens', { name: 'thief', role: 'admin' })).body
    const carol = await fleet.newOperator('carol', 'admin')
    const ends = {
      thief: () => fleet.admin('DELETE', '/api-tokens/thief'),
      carol: () => fleet.admin('PATCH', '/operators/carol', { status: 'disabled' }),
    }
    for (const [name, end] of Object.entries(ends)) {
      const agent = new Agent({ keepAlive: true, ca: fleet.root, ...(name === 'carol' ? carol : {}) })
      const headers = {
        'Content-Type': 'application/json',
        ...(name === 'thief' ? { Authorization: `Bearer ${token}` } : {}),
      }
      let made = 0
      const { promise: goesOn, resolve } = Promise.withResolvers<void>()
      const ask = async (worker: number): Promise<void> => {
        for (let status = 201; status === 201; ) {
          const body = JSON.stringify({ name: `${name}-${worker}-${++made}`, role: 'admin' })
          const url = `${fleet.endpoints.admin}/v1/api-tokens`
          ;({ status } = await fleet.ask(url, { method: 'POST', headers, body, agent }))
          if (made > 40) resolve()
        }
      }
      // The connections of an operator who is disabled end.
      const asking = Promise.allSettled(Array.from({ length: 16 }, (_, worker) => ask(worker)))
      await goesOn
      assert.equal((await end()).status, 200)
      await asking
      agent.destroy()
    }
    const { items } = (await fleet.admin('GET', '/audit?limit=1000')).body
    const behind = (who: string, end: string) => {
      const ended = items.findIndex(({ action, subject }: Entry) => action === end && subject === who)
      const doneBy = items.map(({ actor }: Entry) => actor === who)
      assert.ok(doneBy.slice(0, ended).filter(Boolean).length >= 10, 'it was at it')
      return items.slice(ended).filter((_: Entry, at: number) => doneBy[ended + at])
    }
    assert.deepEqual(behind('api-token:thief', 'apiToken.removed'), [])
    assert.deepEqual(behind('operator:carol', 'operator.changed'), [])
  })

  test('fleetgate api-token makes one that is shown once, or a folder that --data names', async () => {
    const out = join(fleet.dataDir, 'ci')
    const own = (...words: string[]) => fleetgate(['api-token', ...words, '--data', fleet.dataDir])
    const shown = await own('create', '--name', 'shown', '--role', 'viewer', '--ttl', '1h')
    const [, token = ''] = /^token +(\S+)$/m.exec(shown.out) ?? []
    assert.equal((await bearer(token)).status, 200)
    const put = await own('create', '--name', 'put', '--role', 'viewer', '--out', out, '-o', 'json')
    assert.deepEqual([put.code, JSON.parse(put.out).token], [0, undefined], put.err)
    assert.equal(statSync(join(out, 'api-token')).mode & 0o777, 0o600)
    assert.equal((await fleetgate(['status', '--data', out])).code, 0)
    assert.equal((await own('create', '--name', 'more', '--role', 'viewer', '--out', out)).code, 1)
    // Its use is noted beside the answer.
    while (!/^put +viewer +\S+ +\d{4}-/m.test((await own('ls')).out)) await turn()
    assert.match((await own('rm', 'put')).out, /^name +put/)
    assert.match((await fleetgate(['status', '--data', out])).err, /\(api_token_invalid\)/)
    assert.equal((await own('create', '--name', 'a_b', '--role', 'viewer')).code, 2)
  })

  test('who guesses API tokens is told to wait, and locks nobody out', async () => {
    const { token } = (await fleet.admin('POST', '/api-tokens', { name: 'good', role: 'viewer' })).body
    const wrong = [
      '',
      'x',
      token.slice(0, -1),
      `${token}x`,
      token.replace('good', 'bad'),
      `fgat_good_${'A'.repeat(43)}`,
    ]
    const codes: string[] = []
    for (const guess of [...wrong, ...Array(40).fill('x')]) codes.push((await bearer(guess)).body.code)
    assert.deepEqual(new Set(codes.slice(0, wrong.length)), new Set(['api_token_invalid']))
    assert.equal(codes.at(-1), 'too_many_requests')
    assert.match(String((await bearer('x')).headers['retry-after']), /^\d+$/)
    assert.equal((await bearer(token)).status, 200)
  })

  test('a token is removed while it is used, which is noted beside the answer', async () => {
    const names = Array.from({ length: 8 }, (_, at) => `busy-${at}`)
    const made = await Promise.all(
      names.map((name) => fleet.admin('POST', '/api-tokens', { name, role: 'viewer' }).then(({ body }) => body.token)),
    )
    const removed = names.map(async (name, at) => {
      const used = bearer(made[at])
      const { status } = await fleet.admin('DELETE', `/api-tokens/${name}`)
      await used
      return status
    })
    assert.deepEqual(new Set(await Promise.all(removed)), new Set([200]))
  })

  test('events are told as they happen, from where somebody was, and end with the standing of who reads them', async () => {
    const { token } = (await fleet.admin('POST', '/api-tokens', { name: 'watch', role: 'viewer' })).body
    const opened: ClientRequest[] = []
    const watch = async (
      headers: Record<string, string>,
    ): Promise<{ status: number; pieces: AsyncIterator<string> }> => {
      const asked = request(`${fleet.endpoints.admin}/v1/events`, {
        ca: fleet.root,
        headers: { Authorization: `Bearer ${token}`, ...headers },
      })
      opened.push(asked)
      asked.on('error', () => {}).end()
      const [response] = await once(asked, 'response')
      return { status: response.statusCode, pieces: response.setEncoding('utf8')[Symbol.asyncIterator]() }
    }
    try {
      const { audit } = { audit: (await fleet.admin('GET', '/audit?limit=1')).body.next as number }
      const { pieces } = await watch({})
      assert.equal((await pieces.next()).value, `: after ${audit}\n\n`)
      await fleet.admin('POST', '/devices', { id: 'event-1', profile: 'camera' })
      const told = (await pieces.next()).value as string
      assert.match(
        told,
        new RegExp(
          `^id: ${audit + 1}\nevent: device.created\ndata: \\{"seq":${audit + 1},.*"device:event-1".*\\}\n\n$`,
        ),
      )
      const resumed = await watch({ 'Last-Event-ID': String(audit) })
      assert.equal((await resumed.pieces.next()).value, `: after ${audit}\n\n`)
      assert.equal((await resumed.pieces.next()).value, told)
      for (const id of ['x', '-1', '', String(audit + 1_000)]) {
        assert.equal((await watch({ 'Last-Event-ID': id })).status, 400, id)
      }
      while (opened.length < 12) assert.equal((await watch({})).status, 200)
      assert.equal((await watch({})).status, 429)
      const stop = new AbortController()
      const tail = fleetgate(['events', 'tail', '--since', String(audit), '-o', 'json', '--data', fleet.dataDir], {
        untilSignal: () => stop.signal,
        out: (line) => {
          assert.equal(JSON.parse(line).subject, 'device:event-1')
          stop.abort()
        },
      })
      assert.equal((await tail).code, 0)
      await fleet.admin('DELETE', '/api-tokens/watch')
      assert.match((await pieces.next()).value, /^event: ended\ndata: \{"code":"(api_token_invalid|too_many_requests)"/)
      assert.equal((await pieces.next()).done, true)
    } finally {
      for (const asked of opened) asked.destroy()
    }
  })

  test('somebody is left who may do everything: the last admin keeps role and standing', async () => {
    const others = ['the-admin']
    for (const name of others) await fleet.admin('PATCH', `/operators/${name}`, { role: 'viewer' })
    const refused = [
      await fleet.admin('PATCH', '/operators/operator', { role: 'operator' }),
      await fleet.admin('PATCH', '/operators/operator', { status: 'disabled' }),
      await fleet.admin('DELETE', '/operators/operator'),
    ]
    assert.deepEqual(
      refused.map(({ status, body }) => [status, body.code]),
      Array(3).fill([409, 'conflict']),
    )
    assert.match(refused[0]!.body.detail, /the last operator with the role admin/)
    const spare = await fleet.newOperator('spare', 'admin')
    const { serial } = parseCertificate(parsePem(spare.cert, 'CERTIFICATE')[0]!)
    await fleet.admin('POST', `/credentials/${serial}/revoke`, { reason: 'superseded' })
    const alone = await fleet.admin('PATCH', '/operators/operator', { role: 'viewer' })
    assert.equal(alone.body.code, 'conflict', 'an admin whose certificate is revoked is nobody to leave it to')
    await fleet.admin('PATCH', '/operators/the-admin', { role: 'admin' })
    const outcomes = await Promise.all([
      fleet.admin('PATCH', '/operators/operator', { role: 'viewer' }),
      as(credentials.admin, 'PATCH', '/operators/the-admin', { role: 'viewer' }),
    ])
    assert.deepEqual(outcomes.map(({ status }) => status).toSorted(), [200, 409])
    const left = outcomes[0]!.status === 200 ? credentials.admin : fleet.operator
    for (const name of ['operator', 'the-admin']) await as(left, 'PATCH', `/operators/${name}`, { role: 'admin' })
  })

  test('what enroll made by itself for the first operator neither ends a renewal that waits to be shown nor ends with it, nor does another renewal', async () => {
    const former = fleet.operator
    const { privateKeyPem: key, csrDer } = await createKeyAndCsr({ commonName: 'operator' })
    const csr = toPem(csrDer, 'CERTIFICATE REQUEST')
    const { status, body } = await as(credentials.admin, 'POST', '/operators/operator/renew', { csr })
    assert.equal(status, 201)
    const renewed = { key, cert: body.certificate }
    for (const end of ['key', 'crt']) rmSync(join(fleet.dataDir, `operator/operator.${end}`))
    await fleet.close()
    {
      // As of who has shown a renewal before this one while this one was made.
      await using registry = new Registry(await openDatabase(join(fleet.dataDir, 'enroll', 'registry')))
      const by = { remoteAddress: '127.0.0.1', requestId: 'shown-before', now: new Date() }
      await supersedeOperatorCertificates(registry, { name: 'operator', shown: 'ab' }, by)
    }
    await fleet.open()
    const own = fleet.operator
    assert.notEqual(own.cert, former.cert)
    const standing = async (): Promise<number[]> =>
      Promise.all([former, own, renewed].map(async (shown) => (await as(shown, 'GET', '/status')).status))
    assert.deepEqual(
      [(await as(own, 'GET', '/status')).status, (await as(former, 'GET', '/status')).status],
      [200, 200],
    )
    assert.equal((await as(renewed, 'GET', '/status')).status, 200)
    assert.deepEqual(await standing(), [403, 200, 200])
  })

  test('a renewal ends what was good when it was made: with the clock set back, and with another one unanswered since', async () => {
    // Within a second, so that no certificate is of the future.
    const second = Math.floor(Date.now() / 1_000) * 1_000
    stoppedAt = new Date(second + 900)
    const first = await fleet.newOperator('late', 'viewer')
    stoppedAt = new Date(second + 100)
    const renew = async () => {
      const { privateKeyPem: key, csrDer } = await createKeyAndCsr({ commonName: 'late' })
      const csr = toPem(csrDer, 'CERTIFICATE REQUEST')
      const { status, body } = await as(credentials.admin, 'POST', '/operators/late/renew', { csr })
      assert.equal(status, 201, body.detail)
      return { key, cert: body.certificate }
    }
    const standing = async (...shown: (typeof first)[]): Promise<number[]> =>
      Promise.all(shown.map(async (one) => (await as(one, 'GET', '/status')).status))
    const renewed = await renew()
    stoppedAt = undefined
    const unanswered = await renew()
    assert.deepEqual(await standing(first), [200])
    assert.deepEqual(await standing(renewed), [200])
    assert.deepEqual(await standing(first, renewed), [403, 200])
    assert.deepEqual(await standing(unanswered), [200])
    assert.deepEqual(await standing(renewed, unanswered), [403, 200])
  })

  test('the first operator is not made anew once it was removed, nor is its credential', async () => {
    const { items } = (await as(credentials.admin, 'GET', '/operators')).body
    const first = items.find(({ name }: { name: string }) => name === 'operator')
    assert.deepEqual([first.role, first.status, first.createdBy], ['admin', 'active', 'system'])
    assert.match(first.serial, /^[0-9a-f]+$/)
    assert.equal((await as(credentials.admin, 'DELETE', '/operators/operator')).status, 200)
    await fleet.close()
    await fleet.open()
    assert.deepEqual(
      [(await fleet.admin('GET', '/status')).body.code, (await as(credentials.admin, 'GET', '/status')).status],
      ['certificate_revoked', 200],
    )
  })
})
