import { createTokens, importDevices, importReceipt, tokenReceipt } from '../../contract/batch-api.ts'
import { importDevices as importMany, createTokens as mintMany } from '../ra/batches.ts'
import { route } from './route.ts'

export const batchRoutes = [
  route({
    method: 'POST',
    path: '/v1/devices/import',
    role: 'enroller',
    summary: 'Register many devices',
    answer: importReceipt,
    problems: ['conflict'],
    body: importDevices,
    handle: ({ body, asked }, { registry, ra }) =>
      importMany(registry, { ...body, requireProfile: (name) => ra.requireProfile(name) }, asked),
  }),
  route({
    method: 'POST',
    path: '/v1/tokens/batch',
    role: 'enroller',
    summary: 'Make a token for each of many devices',
    answer: tokenReceipt,
    problems: ['conflict', 'token_void'],
    body: createTokens,
    handle: ({ body, asked }, { registry, ra }) =>
      mintMany(registry, { ...body, requireProfile: (name) => ra.requireProfile(name) }, asked),
  }),
]
