import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { FleetError } from './errors.ts'
import { writeFileAtomic } from './files.ts'

/** `DATA/endpoints.json`: where the running gateway is. It holds addresses and paths, no secret. */
const endpoints = z.object({
  est: z.url(),
  mqtts: z.url(),
  admin: z.url(),
  rootFingerprint: z.string().describe('SHA-256 of the root certificate, hex'),
  rootCertificate: z.string(),
  operatorCertificate: z.string(),
  operatorKey: z.string(),
  operatorKeyPassphraseFile: z.string().optional(),
})
export type Endpoints = z.output<typeof endpoints>

export const endpointsFile = (dataDir: string): string => join(dataDir, 'endpoints.json')

export const writeEndpoints = (dataDir: string, content: Endpoints): void =>
  writeFileAtomic(endpointsFile(dataDir), `${JSON.stringify(content, null, 2)}\n`)

export const removeEndpoints = (dataDir: string): void => rmSync(endpointsFile(dataDir), { force: true })

/** @throws FleetError `unavailable` when no gateway runs on `dataDir` */
export function readEndpoints(dataDir: string): Endpoints {
  const file = endpointsFile(dataDir)
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (cause) {
    throw new FleetError(
      'unavailable',
      `No gateway runs on ${dataDir} (there is no ${file}); start it: ${startLine(dataDir)}`,
      {
        cause,
      },
    )
  }
  try {
    return endpoints.parse(JSON.parse(text))
  } catch (cause) {
    throw new FleetError('data_damaged', `${file} is not what a gateway writes; restart it: ${startLine(dataDir)}`, {
      cause,
    })
  }
}

export const startLine = (dataDir: string): string =>
  dataDir === './data' ? 'npx fleetgate up' : `npx fleetgate up --data ${dataDir}`
