import assert from 'node:assert/strict'
import { after, before, suite, test } from 'node:test'
import { EnrollHarness } from '../../harness/fleet.ts'

suite('the admin API', () => {
  let fleet: EnrollHarness
  before(async () => {
    fleet = await EnrollHarness.start()
  })
  after(() => fleet[Symbol.asyncDispose]())

  test('only an operator certificate is let in: none, a device and a broker are refused with a problem', async () => {
    const device = await fleet.enrolledDevice('cam-1')
    const url = `${fleet.endpoints.admin}/v1/status`
    const none = await fleet.ask(url)
    assert.deepEqual([none.status, JSON.parse(none.body).code], [401, 'certificate_missing'])
    assert.match(String(none.headers['content-type']), /^application\/problem\+json\b/)
    const asDevice = await fleet.ask(url, { key: device.key, cert: device.certificate })
    assert.deepEqual([asDevice.status, JSON.parse(asDevice.body).code], [403, 'forbidden'])
    await using foreign = await EnrollHarness.start()
    const other = await fleet.ask(url, foreign.operator)
    assert.deepEqual([other.status, JSON.parse(other.body).code], [401, 'certificate_untrusted'])
  })

  test('devices are created once, listed by group, profile and status, page by page', async () => {
    for (let i = 0; i < 5; i++) {
      const { status } = await fleet.admin('POST', '/devices', {
        id: `list-${i}`,
        profile: i < 2 ? 'camera' : 'sensor',
        groups: ['hall'],
      })
      assert.equal(status, 201)
    }
    const twice = await fleet.admin('POST', '/devices', { id: 'list-1', profile: 'camera' })
    assert.deepEqual([twice.status, twice.body.code], [409, 'device_exists'])
    const first = await fleet.admin('GET', '/devices?group=hall&limit=2')
    assert.deepEqual(
      first.body.items.map(({ id }: { id: string }) => id),
      ['list-0', 'list-1'],
    )
    const next = await fleet.admin('GET', `/devices?group=hall&limit=2&cursor=${encodeURIComponent(first.body.next)}`)
    assert.deepEqual(
      next.body.items.map(({ id }: { id: string }) => id),
      ['list-2', 'list-3'],
    )
    const sensors = await fleet.admin('GET', '/devices?group=hall&profile=sensor')
    assert.equal(sensors.body.items.length, 3)
  })

  test('a change that is asked for at one revision is not made of another, and once for the same request', async () => {
    await fleet.admin('POST', '/devices', { id: 'etag-1', profile: 'camera' })
    const tagOf = async (path: string) =>
      String((await fleet.ask(`${fleet.endpoints.admin}/v1${path}`, fleet.operator)).headers.etag)
    const set = (value: string, tag: string, key: string) => {
      const headers = { 'If-Match': tag, 'Idempotency-Key': key }
      return fleet.admin('PATCH', '/devices/etag-1', { attributes: { site: value } }, headers)
    }
    const first = await tagOf('/devices/etag-1')
    assert.match(first, /^"\d+"$/)
    assert.equal((await set('berlin', first, 'etag-0001')).status, 200)
    assert.equal((await set('berlin', first, 'etag-0001')).status, 200)
    const late = await set('paris', first, 'etag-0002')
    assert.deepEqual([late.status, late.body.code], [412, 'precondition_failed'])
    assert.equal((await fleet.admin('GET', '/devices/etag-1')).body.attributes.site, 'berlin')
    const { document } = (await fleet.admin('GET', '/policy')).body
    const policy = { 'If-Match': await tagOf('/policy') }
    assert.equal((await fleet.admin('PUT', '/policy', document, policy)).status, 200)
    assert.equal((await fleet.admin('PUT', '/policy', document, policy)).status, 412)
    const operator = { 'If-Match': '"999"' }
    assert.match(await tagOf('/operators/operator'), /^"\d+"$/)
    assert.equal((await fleet.admin('PATCH', '/operators/operator', { role: 'admin' }, operator)).status, 412)
    const refused = [
      await set('x', 'W/"1"', 'etag-0003'),
      await fleet.admin('POST', '/devices/etag-1/disable', {}, { 'If-Match': first }),
    ]
    assert.deepEqual(
      refused.map(({ body }) => body.code),
      ['request_malformed', 'request_malformed'],
    )
  })

  test('a write answers with the ETag of what it made, so that the next one can be asked for at it', async () => {
    const ask = async (method: string, path: string, body: object, headers: Record<string, string> = {}) => {
      const answer = await fleet.ask(`${fleet.endpoints.admin}/v1${path}`, {
        ...{ method, body: JSON.stringify(body), ...fleet.operator, agent: fleet.kept },
        headers: { 'Content-Type': 'application/json', ...headers },
      })
      return { status: answer.status, tag: String(answer.headers.etag), body: JSON.parse(answer.body) }
    }
    const { document } = (await fleet.admin('GET', '/policy')).body
    await fleet.newOperator('etag-ann', 'viewer')
    const chains: [string, () => Promise<{ tag: string }>, string, (at: number) => object][] = [
      [
        '/devices/etag-2',
        () => ask('POST', '/devices', { id: 'etag-2', profile: 'camera' }),
        'PATCH',
        (at) => ({ attributes: { at: `${at}` } }),
      ],
      ['/policy', () => ask('PUT', '/policy', document), 'PUT', () => document],
      [
        '/operators/etag-ann',
        () => ask('PATCH', '/operators/etag-ann', { role: 'operator' }),
        'PATCH',
        (at) => ({ role: at % 2 === 0 ? 'viewer' : 'enroller' }),
      ],
    ]
    for (const [path, first, method, bodyOf] of chains) {
      let { tag } = await first()
      for (const at of [1, 2]) {
        const headers = { 'If-Match': tag, 'Idempotency-Key': `chain-${path.length}-${at}` }
        const done = await ask(method, path, bodyOf(at), headers)
        assert.deepEqual([done.status, done.tag !== tag], [200, true], path)
        assert.equal((await ask(method, path, bodyOf(at), headers)).tag, done.tag, `${path}: of the same request`)
        tag = done.tag
      }
      const { headers } = await fleet.ask(`${fleet.endpoints.admin}/v1${path}`, fleet.operator)
      assert.equal(headers.etag, tag, path)
    }
  })

  test('a cursor is good for its own list and filter alone, whatever is made of it', async () => {
    const page = async (query: string) => (await fleet.admin('GET', query)).body
    const { next } = await page('/devices?group=hall&limit=2')
    assert.match(next, /^[A-Za-z0-9_-]+$/)
    assert.equal((await page(`/devices?group=hall&limit=3&cursor=${next}`)).items.length, 3)
    const elsewhere = [
      `/devices?limit=2&cursor=${next}`,
      `/devices?group=hall2&limit=2&cursor=${next}`,
      `/certificates?cursor=${next}`,
      '/devices?group=hall&cursor=',
      '/devices?group=hall&cursor=../..',
      `/devices?group=hall&cursor=${'A'.repeat(900)}`,
      '/devices?group=hall&cursor=list-1',
    ]
    for (const query of elsewhere) assert.equal((await page(query)).code, 'request_malformed', query)
    for (const made of ['', 'fn5-', '____', 'aGFsbDI']) {
      const { items } = await page(`/devices?group=hall&cursor=${next.slice(0, 11)}${made}`)
      for (const { groups } of items) assert.deepEqual(groups, ['hall'], made)
    }
  })

  test('an unknown name is answered with those that are near, of devices, operators and API tokens', async () => {
    for (const id of ['near-0041', 'near-0042', 'far-1'])
      await fleet.admin('POST', '/devices', { id, profile: 'camera' })
    await fleet.admin('POST', '/api-tokens', { name: 'backup-job', role: 'viewer' })
    const rows: [string, string, string][] = [
      ['GET', '/devices/NEAR-0041', 'there is no device NEAR-0041; did you mean near-0041 or near-0042?'],
      ['POST', '/devices/naer-0042/disable', 'there is no device naer-0042; did you mean near-0042 or near-0041?'],
      ['GET', '/devices/elsewhere', 'there is no device elsewhere'],
      ['GET', '/operators/operatr', 'there is no operator operatr; did you mean operator?'],
      ['DELETE', '/api-tokens/backup-jop', 'there is no API token backup-jop; did you mean backup-job?'],
    ]
    for (const [method, path, detail] of rows) {
      const { status, body } = await fleet.admin(method, path, method === 'POST' ? {} : undefined)
      assert.deepEqual([status, body.detail], [404, detail])
    }
    const { body } = await fleet.admin('POST', '/devices', { id: 'near-1', profile: 'camra' })
    assert.match(body.detail, /^there is no profile camra; known: .*; did you mean camera\?$/)
  })

  test('lists are filtered by what stands in their records', async () => {
    const site = { id: 'filter-1', profile: 'camera', groups: ['filter'], attributes: { site: 'a=b', floor: '2' } }
    await fleet.admin('POST', '/devices', site)
    const { serial } = await fleet.enrolledDevice('filter-2', { groups: ['filter'] })
    await fleet.admin('POST', '/devices/filter-2/revoke', { reason: 'superseded' })
    const found = async (query: string, key: string) =>
      (await fleet.admin('GET', query)).body.items.map((item: Record<string, string>) => item[key])
    const { fingerprint, key } = (await fleet.admin('GET', `/certificates/${serial}`)).body
    const ofDevices: [string, string[]][] = [
      ['attribute=site%3Da%3Db', ['filter-1']],
      ['attribute=constructor%3Dx', []],
      ['attribute=site%3Da%3Db&attribute=floor%3D2', ['filter-1']],
      ['attribute=site%3Da%3Db&attribute=floor%3D3', []],
      ['reason=superseded', ['filter-2']],
      ['reason=keyCompromise', []],
      ['revokedFrom=2020-01-01T00:00:00Z', ['filter-2']],
      ['revokedTo=2020-01-01T00:00:00Z', []],
      [`serial=${serial}`, ['filter-2']],
      ['status=revoked', ['filter-2']],
      ['createdTo=2020-01-01T00:00:00Z', []],
      ['createdFrom=2020-01-01T00:00:00%2B02:00', ['filter-1', 'filter-2']],
      ['stolen=true', []],
    ]
    for (const [query, ids] of ofDevices)
      assert.deepEqual(await found(`/devices?group=filter&${query}`, 'id'), ids, query)
    const ofCertificates = [
      'subject=CN%3Dfilter-2',
      'deviceId=filter-2&kind=device&profile=camera',
      'status=revoked&reason=superseded&deviceId=filter-2',
      `serial=${serial}`,
      `fingerprint=${fingerprint}`,
      `key=${key}`,
      'deviceId=filter-2&used=false&revokedFrom=2020-01-01T00:00:00Z&issuedFrom=2020-01-01T00:00:00Z',
      'deviceId=filter-2&expiresBefore=2100-01-01T00:00:00Z',
    ]
    for (const query of ofCertificates)
      assert.deepEqual(await found(`/certificates?${query}`, 'serial'), [serial], query)
    for (const query of [
      `serial=${serial}&status=issued`,
      'deviceId=filter-2&kind=broker',
      'deviceId=filter-2&label=x',
      'deviceId=filter-2&used=true',
      'deviceId=filter-2&revokedTo=2020-01-01T00:00:00Z',
      'deviceId=filter-2&issuedTo=2020-01-01T00:00:00Z',
      `key=${'ab'.repeat(32)}`,
    ])
      assert.deepEqual(await found(`/certificates?${query}`, 'serial'), [], query)
    assert.deepEqual(await found('/tokens?deviceId=filter-2&status=spent', 'serial'), [serial])
    assert.deepEqual(await found('/tokens?deviceId=filter-2&status=void', 'serial'), [])
    assert.deepEqual(await found('/audit?subject=device:filter-2&action=device.revoked', 'reason'), ['superseded'])
    assert.deepEqual(await found('/audit?after=0&subject=device:filter-2&outcome=refused', 'action'), [])
    assert.deepEqual(
      (await fleet.admin('GET', '/tokens?limit=1000')).body.items.filter((one: object) => 'digest' in one),
      [],
    )
  })

  test('attributes are set, changed and taken away, and brokers are told', async () => {
    const device = { id: 'attr-1', profile: 'camera', attributes: { site: 'berlin', floor: '2' } }
    const created = await fleet.admin('POST', '/devices', device)
    assert.deepEqual([created.status, created.body.attributes], [201, { site: 'berlin', floor: '2' }])
    const changed = await fleet.admin('PATCH', '/devices/attr-1', { attributes: { site: 'paris', floor: null } })
    assert.deepEqual([changed.status, changed.body.attributes], [200, { site: 'paris' }])
    assert.deepEqual((await fleet.admin('GET', '/devices/attr-1')).body.attributes, { site: 'paris' })
    const refused = [
      await fleet.admin('PATCH', '/devices/attr-1', { attributes: { Site: 'x' } }),
      await fleet.admin('PATCH', '/devices/attr-1', {
        attributes: Object.fromEntries(Array.from({ length: 32 }, (_, at) => [`a${at}`, 'x'])),
      }),
      await fleet.admin('PATCH', '/devices/none', { attributes: { a: 'x' } }),
    ]
    assert.deepEqual(
      refused.map(({ status, body }) => [status, body.code]),
      [
        [400, 'request_malformed'],
        [400, 'request_malformed'],
        [404, 'device_unknown'],
      ],
    )
    const entries = (await fleet.admin('GET', '/audit?limit=1000')).body.items
    const entry = entries.findLast(({ action }: { action: string }) => action === 'device.changed')
    assert.partialDeepStrictEqual(entry, {
      subject: 'device:attr-1',
      details: { set: ['site=paris'], unset: ['floor'] },
      before: { attributes: '{"site":"berlin","floor":"2"}' },
      after: { attributes: '{"site":"paris"}' },
    })
    await fleet.admin('POST', '/devices/attr-1/revoke', { reason: 'superseded' })
    const revoked = (await fleet.admin('GET', '/audit?subject=device:attr-1&action=device.revoked')).body.items[0]
    assert.deepEqual(revoked.before, { status: 'active' })
    assert.partialDeepStrictEqual(revoked.after, { status: 'revoked', revocationReason: 'superseded' })
    const late = await fleet.admin('PATCH', '/devices/attr-1', { attributes: { a: 'x' } })
    assert.deepEqual([late.status, late.body.code], [403, 'device_revoked'])
  })

  test('profile and groups are changed, with what was before in the audit log; foreseen, nothing is', async () => {
    const device = { id: 'moved-1', profile: 'camera', groups: ['berlin'], attributes: { floor: '2' } }
    await fleet.admin('POST', '/devices', device)
    const patch = (body: object, headers = {}) => fleet.admin('PATCH', '/devices/moved-1', body, headers)
    const wanted = { profile: 'sensor', groups: ['paris', 'paris'] }
    const foreseen = await patch({ ...wanted, dryRun: true })
    const seen = (await fleet.admin('GET', '/devices/moved-1')).body
    assert.deepEqual(foreseen.body, { ...seen, profile: 'sensor', groups: ['paris'] })
    assert.partialDeepStrictEqual(seen, device)
    assert.equal((await patch({ ...wanted, dryRun: true }, { 'If-Match': '"9"' })).status, 412)

    await fleet.admin('POST', '/devices/moved-1/disable', {})
    const changed = await patch(wanted)
    assert.deepEqual([changed.status, changed.body.profile, changed.body.groups], [200, 'sensor', ['paris']])
    assert.deepEqual([changed.body.status, changed.body.attributes], ['held', { floor: '2' }])
    const [entry] = (await fleet.admin('GET', '/audit?subject=device:moved-1&action=device.changed')).body.items
    assert.deepEqual(
      { details: entry.details, before: entry.before, after: entry.after },
      {
        details: wanted,
        before: { profile: 'camera', groups: ['berlin'] },
        after: { profile: 'sensor', groups: ['paris'] },
      },
    )
    const members = (await fleet.admin('GET', '/devices?group=paris')).body.items
    assert.deepEqual(
      members.map(({ id }: { id: string }) => id),
      ['moved-1'],
    )
    assert.deepEqual((await fleet.admin('GET', '/devices?group=berlin&profile=camera')).body.items, [])

    const refused = [
      await patch({ profile: 'sensr' }),
      await patch({}),
      await patch({ groups: ['+'] }),
      await patch({ status: 'active' }),
    ]
    await fleet.admin('POST', '/devices/moved-1/revoke', { reason: 'superseded' })
    refused.push(await patch({ groups: [] }))
    assert.deepEqual(
      refused.map(({ status, body }) => [status, body.code]),
      [[400, 'profile_unknown'], ...Array(3).fill([400, 'request_malformed']), [403, 'device_revoked']],
    )
    assert.match(refused[0]!.body.detail, /did you mean sensor\?/)
  })

  test('the same Idempotency-Key has one effect and one answer', async () => {
    const headers = { 'Idempotency-Key': 'retry-0001' }
    const first = await fleet.admin('POST', '/devices', { id: 'once-1', profile: 'camera' }, headers)
    const again = await fleet.admin('POST', '/devices', { id: 'once-1', profile: 'camera' }, headers)
    assert.deepEqual([first.status, again.status], [201, 201])
    const token = { 'Idempotency-Key': 'retry-0002' }
    assert.equal((await fleet.admin('POST', '/tokens', { deviceId: 'once-1' }, token)).status, 201)
    const shown = await fleet.admin('POST', '/tokens', { deviceId: 'once-1' }, token)
    assert.deepEqual([shown.status, shown.body.code], [403, 'token_void'])
    const other = await fleet.admin('POST', '/devices', { id: 'once-2', profile: 'camera' }, headers)
    assert.deepEqual([other.status, other.body.code], [409, 'conflict'])
    assert.match(other.body.detail, /used for another request/)
    assert.equal((await fleet.admin('GET', '/devices/once-2')).status, 404)
    for (const id of ['idem-1', 'idem-2']) await fleet.admin('POST', '/devices', { id, profile: 'camera' })
    const key = { 'Idempotency-Key': 'revoke-0001' }
    const revoke = (id: string) => fleet.admin('POST', `/devices/${id}/revoke`, { reason: 'superseded' }, key)
    assert.deepEqual(
      [(await revoke('idem-1')).status, (await revoke('idem-1')).status, (await revoke('idem-2')).status],
      [200, 200, 409],
    )
    assert.equal((await fleet.admin('GET', '/devices/idem-2')).body.status, 'active')
    // Of what there is nothing to write for, and of another route, it is told too; a longer key is another one.
    await fleet.admin('POST', '/devices/idem-2/disable', {}, { 'Idempotency-Key': 'revoke-0001-device' })
    for (const [path, body] of [
      ['/devices/idem-2/disable', {}],
      ['/devices/idem-1/revoke', { reason: 'keyCompromise' }],
      ['/devices/idem-2/readmit', {}],
    ] as const)
      assert.match((await fleet.admin('POST', path, body, key)).body.detail, /^this Idempotency-Key was used/, path)
    const longer = { 'Idempotency-Key': 'revoke-0001-2' }
    assert.equal((await fleet.admin('POST', '/devices/idem-2/enable', {}, longer)).status, 200)
    const bad = await fleet.admin('POST', '/tokens', { deviceId: 'once-1' }, { 'Idempotency-Key': 'x' })
    assert.deepEqual([bad.status, bad.body.code], [400, 'request_malformed'])
  })

  test('nobody is told by an Idempotency-Key of before that a device is out which has come back since', async () => {
    for (const id of ['back-1', 'back-2']) await fleet.admin('POST', '/devices', { id, profile: 'camera' })
    const ask = (id: string, verb: string, body: object = {}, key = `${verb}-${id}`) =>
      fleet.admin('POST', `/devices/${id}/${verb}`, body, { 'Idempotency-Key': key })
    const revoke = () => ask('back-1', 'revoke', { reason: 'superseded' })
    const bulk = () =>
      fleet.admin('POST', '/devices/bulk', { verb: 'disable', ids: ['back-2'] }, { 'Idempotency-Key': 'bulk-back-2' })
    const twice = async (verb: () => ReturnType<typeof ask>) => [(await verb()).status, (await verb()).status]
    assert.deepEqual(await twice(revoke), [200, 200])
    assert.equal((await ask('back-1', 'readmit')).body.status, 'active')
    assert.deepEqual(await twice(bulk), [200, 200])
    assert.deepEqual(await twice(() => ask('back-2', 'disable')), [200, 200])
    assert.equal((await ask('back-2', 'enable')).status, 200)
    for (const { status, body } of [await revoke(), await bulk()]) {
      assert.deepEqual([status, body.code], [409, 'conflict'])
      assert.match(body.detail, /taken back since; use another key/)
    }
    assert.equal((await ask('back-1', 'revoke', { reason: 'superseded' }, 'revoke-back-again')).status, 200)
    assert.equal((await ask('back-1', 'readmit')).body.status, 'revoked', 'as it is, and not as it was')
  })

  test('what is malformed is named: key, value and what was wanted', async () => {
    const cases: [string, string, unknown, RegExp][] = [
      ['POST', '/devices', { id: 'a:b', profile: 'camera' }, /id: a device id is letters/],
      ['POST', '/devices', { id: '../x', profile: 'camera' }, /id: a device id/],
      ['POST', '/devices', { id: 'ok', profile: 'camera', extra: 1 }, /extra/],
      [
        'POST',
        '/devices',
        { id: 'ok', profile: 'unknown' },
        /there is no profile unknown; known: camera, sensor, service|sensor, camera, service/,
      ],
      ['POST', '/tokens', { deviceId: 'nobody' }, /there is no device nobody; create it first/],
      ['POST', '/tokens', { deviceId: 'ok', ttlMs: 1 }, /ttlMs/],
      ['POST', '/tokens', { deviceId: 'ok', groups: ['x'] }, /groups are for a new device/],
      ['GET', '/devices/%2e%2e', undefined, /a device id is|there is nothing here/],
      ['GET', '/certificates/xyz', undefined, /a serial number is/],
      ['GET', '/certificates/0a0b', undefined, /there is no certificate/],
      ['GET', '/nothing', undefined, /there is nothing here/],
      ['PUT', '/policy', { policies: [{ name: 'x', allow: { publish: ['a/#/b'] } }] }, /not a topic filter/],
    ]
    for (const [method, path, body, sentence] of cases) {
      const answer = await fleet.admin(method, path, body)
      assert.ok(answer.status >= 400 && answer.status < 500, `${path} ${answer.status}`)
      assert.match(answer.body.detail, sentence)
    }
    const notJson = await fleet.ask(`${fleet.endpoints.admin}/v1/devices`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: '{',
      ...fleet.operator,
    })
    assert.deepEqual([notJson.status, JSON.parse(notJson.body).code], [400, 'request_malformed'])
    const undecodable = await fleet.ask(`${fleet.endpoints.admin}/v1/devices/%zz`, fleet.operator)
    assert.deepEqual([undecodable.status, JSON.parse(undecodable.body).code], [400, 'request_malformed'])
    const long = await fleet.admin('GET', `/devices/${'x'.repeat(4_000)}`)
    assert.match(long.body.detail, /a device id is/)
    const huge = await fleet
      .ask(`${fleet.endpoints.admin}/v1/devices`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: `"${'x'.repeat(3_000_000)}"`,
        ...fleet.operator,
      })
      .catch((error: NodeJS.ErrnoException) => error)
    if (!(huge instanceof Error)) assert.equal(huge.status, 413)
  })

  test('a policy is put in force with a version, an audit entry and a feed event', async () => {
    const before = (await fleet.admin('GET', '/policy')).body
    const document = {
      policies: [{ name: 'all', match: { profile: 'camera' }, allow: { publish: ['x/+'] } }],
    }
    const put = await fleet.admin('PUT', '/policy', document)
    assert.deepEqual([put.status, put.body.version, put.body.by], [200, before.version + 1, 'operator:operator'])
    const shown = (await fleet.admin('GET', '/policy')).body
    assert.deepEqual(shown.document.policies[0].match.profile, ['camera'])
    const { items } = (await fleet.admin('GET', '/audit?limit=1')).body
    assert.deepEqual([items[0].action, items[0].actor], ['policy.changed', 'operator:operator'])
    assert.deepEqual([items[0].before.version, items[0].after.version], [before.version, before.version + 1])
  })

  test('the audit log can be followed: a waiting request ends with the next entry', async () => {
    const { next } = (await fleet.admin('GET', '/audit?limit=1')).body
    const waiting = fleet.admin('GET', `/audit?after=${next}&waitMs=5000`)
    await fleet.admin('POST', '/devices', { id: 'audit-1', profile: 'camera' })
    const { items } = (await waiting).body
    assert.deepEqual([items[0].seq, items[0].subject], [next + 1, 'device:audit-1'])
  })
})
