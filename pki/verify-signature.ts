import { type KeyObject, verify } from 'node:crypto'
import { promisify } from 'node:util'
import { hasCoresToSpare } from '../runtime/threads.ts'
import type { KeyType } from './public-key.ts'

export type SignatureProof = [hash: string | null, signed: Buffer, key: KeyObject, signature: Buffer]

const verifyOnThread: (...proof: SignatureProof) => Promise<boolean> = promisify(verify)

/**
 * Whether a signature holds, checked on a thread where there are cores for that. A key on P-384, which takes ten times as long
 * as any other, would hold up everybody else, and never stays here.
 */
export const verifySignature = (
  proof: SignatureProof,
  keyType: KeyType,
  onThread: boolean = hasCoresToSpare,
): Promise<boolean> | boolean => (onThread || keyType === 'P-384' ? verifyOnThread(...proof) : verify(...proof))
