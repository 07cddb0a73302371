import { serialNumber } from '../../contract/admin-api.ts'
import {
  type CredentialReceipt,
  credentialReceipt,
  revokeCredential as revokeBody,
} from '../../contract/credential-api.ts'
import { FleetError } from '../../runtime/errors.ts'
import { revokeCredential } from '../ca/credential-revocation.ts'
import { recordReceipt } from '../ca/receipts.ts'
import type { OwnPeer } from '../own-peers.ts'
import { route } from './route.ts'

export const credentialRoutes = [
  route({
    method: 'POST',
    path: '/v1/credentials/:serial/revoke',
    role: 'admin',
    summary: 'Revoke the certificate of an operator or a broker',
    answer: credentialReceipt,
    problems: ['certificate_unknown', 'last_operator', 'conflict'],
    body: revokeBody,
    handle: async ({ params, body, asked, socket }, context): Promise<CredentialReceipt> => {
      const { registry, peers, feed, lists } = context
      const serial = requireSerial(params.serial)
      const { reason, lastOperator, waitMs } = body
      const revocation = await revokeCredential(registry, { serial, reason, lastOperator, ...asked })
      const { kind, name, feedSeq, certificates } = revocation
      const isMeant = (peer: OwnPeer): boolean => peer.serial === serial || certificates.includes(peer.serial)
      const connectionsEnded = await peers.end(isMeant, socket)
      const crlNumber = await lists?.carriedAt(feedSeq, AbortSignal.timeout(waitMs))
      const brokers = await feed.confirmations(feedSeq, 0)
      const broker = kind === 'broker' ? brokers.find((one) => one.broker === name) : undefined
      const carried = crlNumber === undefined ? {} : { crlNumber }
      if (waitMs > 0) {
        const told = { feedSeq, connectionsEnded, brokers: broker === undefined ? [] : [broker], sessions: [] }
        await recordReceipt(registry, { subject: `certificate:${serial}`, ...told, ...carried }, asked)
      }
      return { ...revocation, connectionsEnded, ...carried, ...(broker === undefined ? {} : { broker }) }
    },
  }),
]

function requireSerial(text: string | undefined) {
  const serial = serialNumber.safeParse(text?.toLowerCase())
  if (serial.success) return serial.data
  throw new FleetError('request_malformed', serial.error.issues[0]!.message)
}
