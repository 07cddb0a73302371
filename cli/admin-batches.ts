import {
  batchAtMost,
  type CreateTokens,
  type ImportDevices,
  type ImportReceipt,
  importReceipt,
  type TokenReceipt,
  tokenReceipt,
} from '../contract/batch-api.ts'
import { readEndpoints } from '../runtime/endpoints.ts'
import { AdminConnection } from './admin-connection.ts'

// Each holds the gateway for a moment, and others ask it too; half a body of what it takes.
const devicesAtOnce = 200
const bytesAtOnce = 1024 * 1024

/** Parts small enough for one request each, in order. */
export function* partsOf<T>(items: readonly T[]): Generator<T[]> {
  let part: T[] = []
  let bytes = 0
  for (const item of items) {
    const size = Buffer.byteLength(JSON.stringify(item))
    if (part.length === devicesAtOnce || (part.length > 0 && bytes + size > bytesAtOnce)) {
      yield part
      part = []
      bytes = 0
    }
    part.push(item)
    bytes += size
  }
  if (part.length > 0) yield part
}

export const inOneRequest = batchAtMost

export const importDevices = (connection: AdminConnection, body: ImportDevices): Promise<ImportReceipt> =>
  connection.call(importReceipt, { method: 'POST', path: '/v1/devices/import', body })

export const createTokens = (connection: AdminConnection, body: CreateTokens): Promise<TokenReceipt> =>
  connection.call(tokenReceipt, { method: 'POST', path: '/v1/tokens/batch', body })

export const openConnection = (dataDir: string): AdminConnection => new AdminConnection(readEndpoints(dataDir), dataDir)
