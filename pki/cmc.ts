import { FleetError } from '../runtime/errors.ts'
import { certsOnly } from './cms.ts'
import {
  contextConstructed,
  DerError,
  type DerReader,
  integer,
  octetString,
  oid,
  readDer,
  sequence,
  setOf,
  tags,
  utf8String,
} from './der.ts'
import { oids } from './oids.ts'
import { contentInfo, type MessageSigner, readSignedData, type SignedMessage, signData } from './signed-data.ts'

/** Controls that we read (RFC 5272 6); a request with any other is refused, as 3.2.1.1 asks. */
const controls = {
  dataReturn: '1.3.6.1.5.5.7.7.4',
  transactionId: '1.3.6.1.5.5.7.7.5',
  senderNonce: '1.3.6.1.5.5.7.7.6',
  recipientNonce: '1.3.6.1.5.5.7.7.7',
  statusInfoV2: '1.3.6.1.5.5.7.7.25',
} as const
const echoed = new Map<string, string>([
  [controls.dataReturn, controls.dataReturn],
  [controls.transactionId, controls.transactionId],
  // RFC 5272 6.6: what they sent comes back as the recipient's.
  [controls.senderNonce, controls.recipientNonce],
])

/** RFC 5272 6.1.4 */
export const failures = {
  badAlg: 0,
  badMessageCheck: 1,
  badRequest: 2,
  badIdentity: 7,
  popFailed: 9,
  internalCAError: 11,
  tryLater: 12,
  authDataFail: 13,
} as const
export type Failure = keyof typeof failures

/** What an answer has to speak of: the request's part, and the controls that come back with their one value. DER all of it. */
export type CmcReference = { bodyPartId: Buffer; controls: { type: string; value: Buffer }[] }

/** A Full PKI Request (RFC 5272 3.2) of one PKCS#10. Who signed the message, and the PKCS#10, is for the reader to check. */
export type CmcRequest = { csrDer: Buffer; message: SignedMessage; reference: CmcReference }

/** RFC 5272 3.2.1: part 0 is the message as a whole. */
export const wholeMessage: CmcReference = { bodyPartId: integer(0), controls: [] }

const maxBytes = 65_536
const maxControls = 32

/**
 * @throws FleetError `cmc_malformed`
 */
export function parseCmcRequest(der: Uint8Array): CmcRequest {
  try {
    const message = readSignedData(Buffer.from(der), maxBytes)
    if (message.content.type !== oids.pkiData) throw new DerError('signed content other than PKIData')
    return { ...readPkiData(message.content.octets), message }
  } catch (cause) {
    if (!(cause instanceof DerError)) throw cause
    throw new FleetError('cmc_malformed', `Not a Full PKI Request of one PKCS#10 (RFC 5272 3.2): ${cause.message}`, {
      cause,
    })
  }
}

function readPkiData(octets: Buffer): Pick<CmcRequest, 'csrDer' | 'reference'> {
  const data = readDer(octets, maxBytes).enter()
  const bodyParts = new Set<string>()
  const found = readControls(data.enter(), bodyParts)
  const requests = data.enter()
  data.enter().end() // no CMS inside CMS,
  data.enter().end() // and no other messages
  data.end()
  // TaggedRequest: tcr [0]; CRMF and others are not read.
  const request = requests.enter(contextConstructed(0))
  requests.end()
  const bodyPartId = readBodyPartId(request, bodyParts)
  const csrDer = request.next(tags.sequence).der
  request.end()
  return { csrDer, reference: { bodyPartId, controls: found } }
}

/**
 * RFC 5272 3.2.1: four octets without a sign, and not twice in one message. 0 is the message as a whole, so an answer that
 * speaks of a part by it would be read as one about all of it.
 */
function readBodyPartId(part: DerReader, seen: Set<string>): Buffer {
  const { content, der } = part.next(tags.integer)
  if (content[0]! > 0x7f || content.length > 5 || (content.length === 5 && content[0] !== 0)) {
    throw new DerError('a bodyPartID outside 1 to 4294967295')
  }
  const id = content.toString('hex')
  if (id === '00') throw new DerError('a bodyPartID of 0, which is the message itself')
  if (seen.has(id)) throw new DerError('a bodyPartID that stands twice')
  seen.add(id)
  return der
}

function readControls(list: DerReader, bodyParts: Set<string>): CmcReference['controls'] {
  const found: CmcReference['controls'] = []
  while (!list.done) {
    if (found.length === maxControls) throw new DerError(`more than ${maxControls} controls`)
    const control = list.enter()
    readBodyPartId(control, bodyParts)
    const type = control.oid()
    const values = control.enter(tags.set)
    control.end()
    // RFC 5272 6.4, 6.6: each of them has one value.
    const { der: value } = values.next()
    values.end()
    const answer = echoed.get(type)
    if (answer === undefined) throw new DerError(`the control ${type}, which is not offered`)
    found.push({ type: answer, value })
  }
  return found
}

type Responder = { by: MessageSigner; now: Date; senderNonce: Uint8Array }

/**
 * @returns a Simple PKI Response where the request had no controls to answer (RFC 5272 4.1), else a Full one
 */
export async function cmcSuccess(
  reference: CmcReference,
  certificate: Buffer,
  responder: Responder,
): Promise<{ kind: 'simple' | 'full'; der: Buffer }> {
  if (reference.controls.length === 0) return { kind: 'simple', der: certsOnly([certificate]) }
  const status = sequence(integer(0), sequence(reference.bodyPartId))
  return { kind: 'full', der: await fullResponse(reference, status, [certificate], responder) }
}

/** A Full PKI Response that says no (RFC 5272 4.2, 6.1). */
export function cmcFailure(
  reference: CmcReference,
  { failure, sentence }: { failure: Failure; sentence: string },
  responder: Responder,
): Promise<Buffer> {
  const status = sequence(
    integer(2), // failed
    sequence(reference.bodyPartId),
    utf8String(sentence),
    integer(failures[failure]),
  )
  return fullResponse(reference, status, [], responder)
}

async function fullResponse(
  reference: CmcReference,
  status: Buffer,
  certificates: Uint8Array[],
  { by, now, senderNonce }: Responder,
): Promise<Buffer> {
  const answers = [
    { type: controls.statusInfoV2, value: status },
    ...reference.controls,
    ...(reference.controls.some(({ type }) => type === controls.recipientNonce)
      ? [{ type: controls.senderNonce, value: octetString(senderNonce) }]
      : []),
  ]
  const parts = answers.map(({ type, value }, at) => sequence(integer(at + 1), oid(type), setOf(value)))
  const octets = sequence(sequence(...parts), sequence(), sequence())
  const content = { type: oids.pkiResponse, octets }
  const signed = await signData({ content, by, certificates, now })
  return contentInfo(oids.signedData, signed)
}
