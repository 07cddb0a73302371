/** What TLS says of a chain is asked of TLS itself: each case is a handshake too. */
import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { after, before, test } from 'node:test'
import { connect, createServer, type Server, type TLSSocket } from 'node:tls'
import { parsePem, toPem } from '../../pki/certificate.ts'
import { chainFault } from '../../pki/chain.ts'
import { type TestCertificate, TestPki } from '../harness/certificates.ts'

const day = 86_400_000
let ours: TestPki
let others: TestPki
let sameName: TestPki
let server: Server
before(async () => {
  ours = await TestPki.create('Ours')
  others = await TestPki.create('Others')
  sameName = await TestPki.create('Ours')
  const { key, chain } = await ours.service('server')
  server = createServer({ key, cert: chain, ca: ours.anchors, requestCert: true, rejectUnauthorized: false })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
})
after(() => server.close())

async function handshake({ key }: TestCertificate, sent: string): Promise<string | undefined> {
  const { port } = server.address() as AddressInfo
  const client = connect({ host: '127.0.0.1', port, ca: ours.root.pem, key, cert: sent })
  client.on('error', () => {})
  const [socket] = (await once(server, 'secureConnection')) as [TLSSocket]
  const { authorized, authorizationError } = socket
  client.destroy()
  socket.destroy()
  return authorized ? undefined : String(authorizationError)
}

/** One octet of the signature of the first is another. */
function forged(chain: string): string {
  const [leaf, ...above] = parsePem(chain, 'CERTIFICATE')
  leaf!.writeUInt8(leaf!.at(-1)! ^ 1, leaf!.length - 1)
  return [leaf!, ...above].map((der) => toPem(der)).join('')
}

const cases: Record<string, () => Promise<{ peer: TestCertificate; sent?: string }>> = {
  'a device of ours': async () => ({ peer: await ours.device('a') }),
  'one that sends no CA': async () => {
    const peer = await ours.device('a')
    return { peer, sent: peer.pem }
  },
  'one of the root itself': async () => ({ peer: await ours.deviceOfRoot('a') }),
  'one that sends too much': async () => {
    const peer = await ours.device('a')
    return { peer, sent: peer.chain + others.issuing.pem + ours.root.pem }
  },
  'one of others': async () => ({ peer: await others.device('a') }),
  'one of others that sends no CA': async () => {
    const peer = await others.device('a')
    return { peer, sent: peer.pem }
  },
  'one of others that sends their root': async () => {
    const peer = await others.device('a')
    return { peer, sent: peer.chain + others.root.pem }
  },
  'one of a CA with the name of ours': async () => {
    const peer = await sameName.device('a')
    return { peer, sent: peer.pem }
  },
  'one that signed itself': async () => ({ peer: await TestPki.selfSigned('a') }),
  'one with another signature': async () => {
    const peer = await ours.device('a')
    return { peer, sent: forged(peer.chain) }
  },
  'one that has expired': async () => ({ peer: await ours.device('a', { notAfter: new Date(Date.now() - 1_000) }) }),
  'one that is not valid yet': async () => ({
    peer: await ours.device('a', { notBefore: new Date(Date.now() + day) }),
  }),
  'one for servers': async () => ({ peer: await ours.device('a', { usage: ['1.3.6.1.5.5.7.3.1'] }) }),
  'one for everything': async () => ({ peer: await ours.device('a', { usage: [] }) }),
  'a CA of ours that comes as a client': async () => ({ peer: ours.issuing }),
}

for (const [name, made] of Object.entries(cases)) {
  test(`of ${name} is said what a handshake with it says`, async () => {
    const { peer, sent = peer.chain } = await made()
    const [leaf, ...above] = parsePem(sent, 'CERTIFICATE').map((der) => new X509Certificate(der))
    const anchors = ours.anchors.map((pem) => new X509Certificate(pem))
    assert.equal(chainFault([leaf!, ...above], anchors, new Date()), await handshake(peer, sent))
  })
}
