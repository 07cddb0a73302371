import { type Cursor, startCursor } from '../../contract/feed.ts'
import type { PolicyDocument } from '../../contract/policy-document.ts'
import { CertificateTable } from './certificate-table.ts'
import { type DeviceEntry, type DeviceState, DeviceTable } from './device-table.ts'

export type PolicyState = { version: number; document: PolicyDocument }
export type CertificateState = { deviceId: string; status: 'issued' | 'revoked'; reason?: string }

/** What a run of feed events changes. */
export type SnapshotUpdate = {
  cursor: Cursor
  /** When enroll wrote the last of them, by its clock. */
  writtenAt?: string | undefined
  anchors?: string[]
  policy?: PolicyState
  devices: Map<string, DeviceState>
  /** By fingerprint. It is revoked where there is a reason; the end is seconds since 1970, 0 where it is not told. */
  certificates: Map<string, { deviceId: string; notAfter: number; reason: string | undefined }>
}
/** What a state has in memory and not yet in a record. */
export type Unsaved = { anchors: boolean; policy: boolean; devices: Set<string>; certificates: Set<string> }

type Header = {
  cursor?: Cursor
  writtenAt?: string | undefined
  anchors?: string[]
  policy?: PolicyState
  devices?: DeviceEntry[]
}

const devicesInSlice = 500

/** What a broker believes, as of `cursor`, in memory and as records: a record is a header of JSON, and rows of certificates. */
export class SnapshotState {
  cursor: Cursor = startCursor
  writtenAt: string | undefined
  anchors: string[] = []
  policy: PolicyState = { version: 0, document: { policies: [] } }
  readonly devices = new DeviceTable()
  readonly certificates = new CertificateTable()

  findCertificate(fingerprint: string): CertificateState | undefined {
    const row = this.certificates.find(fingerprint)
    if (row === undefined) return undefined
    const deviceId = this.devices.idOf(row.owner)
    return row.reason === undefined
      ? { deviceId, status: 'issued' }
      : { deviceId, status: 'revoked', reason: row.reason }
  }

  merge(update: SnapshotUpdate, unsaved: Unsaved): void {
    this.cursor = update.cursor
    if (update.writtenAt !== undefined) this.writtenAt = update.writtenAt
    if (update.anchors !== undefined) this.anchors = update.anchors
    if (update.policy !== undefined) this.policy = update.policy
    unsaved.anchors ||= update.anchors !== undefined
    unsaved.policy ||= update.policy !== undefined
    for (const [id, device] of update.devices) {
      this.devices.set(id, device)
      unsaved.devices.add(id)
    }
    for (const [fingerprint, { deviceId, notAfter, reason }] of update.certificates) {
      if (!this.devices.has(deviceId)) unsaved.devices.add(deviceId)
      this.certificates.set(fingerprint, { owner: this.devices.numberOf(deviceId), notAfter, reason })
      unsaved.certificates.add(fingerprint)
    }
  }

  /** A record of what is unsaved, as it is now, with the cursor of now. */
  recordOf({ anchors, policy, devices, certificates }: Unsaved): Buffer {
    const { cursor, writtenAt } = this
    const header: Header = { cursor, writtenAt, devices: this.devices.entriesOf(devices) }
    if (anchors) header.anchors = this.anchors
    if (policy) header.policy = this.policy
    return encode(header, this.certificates.rowsOf(certificates))
  }

  /**
   * Records of everything. What changes while they are taken may be in them or not: its own record comes behind them, and what
   * the cursor has not reached yet does no harm before it.
   */
  *records(): Generator<Buffer> {
    const { cursor, writtenAt } = this
    for (const rows of this.certificates.slices()) yield encode({}, rows)
    // Behind the certificates, so that each of them has its device.
    for (const devices of this.devices.slices(devicesInSlice)) yield encode({ devices })
    yield encode({ cursor, writtenAt, anchors: this.anchors, policy: this.policy })
  }

  read(record: Buffer): void {
    const begin = 4 + record.readUInt32BE(0)
    const { cursor, writtenAt, anchors, policy, devices = [] }: Header = JSON.parse(record.toString('utf8', 4, begin))
    if (cursor !== undefined) this.cursor = cursor
    if (writtenAt !== undefined) this.writtenAt = writtenAt
    if (anchors !== undefined) this.anchors = anchors
    if (policy !== undefined) this.policy = policy
    for (const device of devices) this.devices.put(device)
    this.certificates.putRows(record.subarray(begin))
  }
}

function encode(header: Header, rows: Buffer = Buffer.alloc(0)): Buffer {
  const json = Buffer.from(JSON.stringify(header))
  const length = Buffer.alloc(4)
  length.writeUInt32BE(json.length)
  return Buffer.concat([length, json, rows])
}
