import type { Registry, Write } from './registry.ts'

/**
 * What lets one key have one certificate. It is bound to the key before the CA's key is used, and spent in the batch that
 * records the certificate; the same key may ask for its lost answer again, no other may.
 */
export type Redemption = {
  status: 'unspent' | 'redeeming' | 'spent' | 'void'
  /** Of the key it is or was redeemed for. */
  spkiHash?: string
  serial?: string
  spentAt?: string
}

export type VoucherKind = 'token' | 'claim' | 'approval' | 'lateRenewal'
/** `rev` is 0 for one that comes to be by its use. */
export type Voucher = { kind: VoucherKind; id: string; rev: number; doc: Redemption }

/** @returns undefined when it was deleted meanwhile */
export async function findVoucher(registry: Registry, { kind, id }: Voucher): Promise<Voucher | undefined> {
  const found = await registry.find(kind, id)
  return found && { kind, id, ...found }
}

export const writeVoucher = ({ kind, id, rev, doc }: Voucher, change: Redemption): Write =>
  ({ kind, id, expect: rev, doc: { ...doc, ...change } }) as Write
