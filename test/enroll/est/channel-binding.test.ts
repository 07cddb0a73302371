import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, before, suite, test } from 'node:test'
import tls, { type ConnectionOptions, connect, type TLSSocket } from 'node:tls'
import { EstClient, fetchTrust } from '../../../device-sim/est-client.ts'
import { enrollIdentity, renewIdentity } from '../../../device-sim/identity.ts'
import { asksForChannelBinding, buildCsrAttributes } from '../../../pki/csr-attributes.ts'
import { createKeyAndCsr } from '../../../pki/x509.ts'
import { channelBindingOf } from '../../../runtime/channel-binding.ts'
import { csrWithChallenge } from '../../harness/csr-vectors.ts'
import { codeOf, EnrollHarness, testConfiguration } from '../../harness/fleet.ts'

// SSL_OP_NO_EXTENDED_MASTER_SECRET of OpenSSL, which node:crypto has no name for.
const noExtendedMasterSecret = 1

suite('channel binding (RFC 7030 3.5)', () => {
  let fleet: EnrollHarness
  before(async () => {
    fleet = await EnrollHarness.start({
      config: testConfiguration({
        profiles: { camera: {}, gate: { channelBinding: 'required' } },
        labels: { gates: { profile: 'gate' } },
        enroll: { attemptsPerMinute: 1000 },
      }),
    })
  })
  after(() => fleet[Symbol.asyncDispose]())

  async function dial(options: ConnectionOptions): Promise<TLSSocket> {
    const { hostname, port } = new URL(fleet.endpoints.est)
    const socket = connect({ host: hostname, port: Number(port), servername: hostname, ca: fleet.root, ...options })
    await once(socket, 'secureConnect')
    return socket
  }

  const only = (version: 'TLSv1.2' | 'TLSv1.3') => ({ minVersion: version, maxVersion: version })
  const uniqueOf = (socket: TLSSocket): string =>
    (socket.isSessionReused() ? socket.getPeerFinished() : socket.getFinished())!.toString('base64')
  const exporterOf = (socket: TLSSocket): string =>
    socket.exportKeyingMaterial(32, 'EXPORTER-Channel-Binding', Buffer.alloc(0)).toString('base64')

  async function enrollOver(socket: TLSSocket, id: string, challenge: string) {
    const csr = csrWithChallenge(id, challenge)
    const answer = await fleet.enroll(id, await fleet.token(id), csr, { createConnection: () => socket })
    return [answer.status, codeOf(answer)]
  }

  test('tls-exporter on TLS 1.3 and tls-unique on TLS 1.2 are accepted, each of the connection that carries it', async () => {
    const modern = await dial(only('TLSv1.3'))
    assert.equal((await enrollOver(modern, 'cam-1', exporterOf(modern)))[0], 200)
    const older = await dial(only('TLSv1.2'))
    assert.equal((await enrollOver(older, 'cam-2', uniqueOf(older)))[0], 200)
  })

  test('on a resumed TLS 1.2 session tls-unique is the Finished of the server, which comes first there (RFC 5929 3.1)', async () => {
    const first = await dial(only('TLSv1.2'))
    const session = first.getSession()!
    first.destroy()
    const resumed = await dial({ ...only('TLSv1.2'), session })
    assert.equal(resumed.isSessionReused(), true)
    assert.equal((await enrollOver(resumed, 'cam-3', uniqueOf(resumed)))[0], 200)
    const again = await dial({ ...only('TLSv1.2'), session })
    const ofClient = again.getFinished()!.toString('base64')
    assert.deepEqual(await enrollOver(again, 'cam-4', ofClient), [403, 'channel_binding_mismatch'])
  })

  test('the value of another connection and a text that is none are refused, and the token stays unspent', async () => {
    const elsewhere = await dial(only('TLSv1.3'))
    const token = await fleet.token('cam-5')
    const wrong: ((here: TLSSocket) => string)[] = [
      () => exporterOf(elsewhere),
      () => 'secret',
      () => '',
      (here) => `${exporterOf(here)}\n`,
      uniqueOf,
    ]
    for (const textOf of wrong) {
      const here = await dial(only('TLSv1.3'))
      const csr = csrWithChallenge('cam-5', textOf(here))
      const refused = await fleet.enroll('cam-5', token, csr, { createConnection: () => here })
      assert.deepEqual([refused.status, codeOf(refused)], [403, 'channel_binding_mismatch'])
    }
    elsewhere.destroy()
    const { csrDer } = await createKeyAndCsr({ commonName: 'cam-5' })
    assert.equal((await fleet.enroll('cam-5', token, csrDer)).status, 200)
  })

  test('without Extended Master Secret tls-unique names more than one connection, so nothing can be bound (RFC 7627 1)', async () => {
    const socket = await dial({ ...only('TLSv1.2'), secureOptions: noExtendedMasterSecret })
    assert.equal(channelBindingOf(socket, 'client'), undefined)
    assert.deepEqual(await enrollOver(socket, 'cam-6', uniqueOf(socket)), [400, 'channel_binding_unavailable'])
    const plain = { ...only('TLSv1.2'), secureOptions: noExtendedMasterSecret }
    const { csrDer } = await createKeyAndCsr({ commonName: 'cam-6' })
    assert.equal((await fleet.enroll('cam-6', await fleet.token('cam-6'), csrDer, plain)).status, 200)
  })

  test('a profile that requires it refuses a request without it', async () => {
    const token = await fleet.token('gate-1', { profile: 'gate' })
    const { csrDer } = await createKeyAndCsr({ commonName: 'gate-1' })
    const refused = await fleet.enroll('gate-1', token, csrDer)
    assert.deepEqual([refused.status, codeOf(refused)], [400, 'channel_binding_missing'])
    const socket = await dial(only('TLSv1.3'))
    const bound = csrWithChallenge('gate-1', exporterOf(socket))
    assert.equal((await fleet.enroll('gate-1', token, bound, { createConnection: () => socket })).status, 200)
  })

  test('csrattrs asks for it where the profile requires it, and where it may', async () => {
    const template = { keyType: 'P-256' as const, extendedKeyUsage: ['clientAuth' as const], subject: undefined }
    const gates = await fleet.est('csrattrs', { label: 'gates' })
    assert.ok(asksForChannelBinding(Buffer.from(gates.body, 'base64')))
    assert.equal(gates.body.trim(), buildCsrAttributes({ template, channelBinding: true }).toString('base64'))
    const anybody = await fleet.est('csrattrs')
    const challenge = buildCsrAttributes({ template: undefined, channelBinding: true })
    assert.equal(anybody.body.trim(), challenge.toString('base64'))
  })

  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    test(`a device that is asked for it binds its first request and each renewal to its ${version} connection`, async () => {
      const [before, id] = [tls.DEFAULT_MAX_VERSION, `gate-${version}`]
      tls.DEFAULT_MAX_VERSION = version
      after(() => {
        tls.DEFAULT_MAX_VERSION = before
      })
      const url = `${fleet.endpoints.est}/.well-known/est/gates`
      const client = new EstClient(url, await fetchTrust(url, fleet.endpoints.rootFingerprint))
      const identity = await enrollIdentity(client, id, await fleet.token(id, { profile: 'gate' }))
      const renewed = await renewIdentity(client, identity)
      assert.notEqual(renewed.certificatePem, identity.certificatePem)
      tls.DEFAULT_MAX_VERSION = before
    })
  }
})
