import { element, integer, readDer } from '../../pki/der.ts'

/** The same value with an INTEGER more at the end of one of its levels: once for each SEQUENCE, SET and constructed tag in it. */
export function* withOneMore(der: Buffer): Generator<Buffer> {
  const tag = der[0]!
  if ((tag & 0x20) === 0) return
  const children: Buffer[] = []
  for (const reader = readDer(der, der.length).enter(tag); !reader.done; ) children.push(reader.next().der)
  yield element(tag, ...children, integer(0))
  for (const [at, child] of children.entries()) {
    for (const variant of withOneMore(child)) yield element(tag, ...children.with(at, variant))
  }
}
