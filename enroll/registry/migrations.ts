/**
 * What a registry of an earlier layout needs to be one of this. Each step may be cut short and begun again: the number
 * of the layout is written behind it.
 */
import type { Level } from 'level'
import { serialEntry } from './allowances.ts'
import { aboutIndex, aboutOf } from './audit-log.ts'
import { schemaKey } from './database-copy.ts'
import { fingerprintEntry } from './indexes.ts'

export const schemaVersion = 2
const atOnce = 1_000

type Database = Level<string, string>

/** @returns false for a layout that is not known, which is then left as it is */
export async function migrate(level: Database, version: string): Promise<boolean> {
  if (version !== '1') return false
  await indexAudit(level)
  await indexFingerprints(level)
  await indexAllowances(level)
  await level.put(schemaKey, String(schemaVersion), { sync: true })
  return true
}

/** Layout 2 knows which entries tell of a device or a certificate. */
const indexAudit = (level: Database): Promise<void> =>
  addIndexes(level, { gt: 'a ', lt: 'a!' }, (key, text) => {
    const id = key.slice('a '.length)
    return aboutOf(JSON.parse(text.slice(text.indexOf(' ') + 1))).map((value) => `i ${aboutIndex} ${value} ${id}`)
  })

/** And which certificate has a fingerprint. */
const indexFingerprints = (level: Database): Promise<void> =>
  addIndexes(level, { gt: 'r certificate ', lt: 'r certificate!' }, (key, text) => {
    const { doc } = JSON.parse(text) as { doc?: { fingerprint?: string } }
    if (doc?.fingerprint === undefined) return []
    const { index, value } = fingerprintEntry(doc.fingerprint)
    return [`i ${index} ${value} ${key.slice('r certificate '.length)}`]
  })

/** And which allowances are for one serial number. */
const indexAllowances = (level: Database): Promise<void> =>
  addIndexes(level, { gt: 'r allowance ', lt: 'r allowance!' }, (key, text) => {
    const { doc } = JSON.parse(text) as { doc?: { serial: string } }
    if (doc === undefined) return []
    const { index, value } = serialEntry(doc.serial)
    return [`i ${index} ${value} ${key.slice('r allowance '.length)}`]
  })

async function addIndexes(
  level: Database,
  range: { gt: string; lt: string },
  keysOf: (key: string, text: string) => string[],
): Promise<void> {
  for (let after = range.gt; ; ) {
    const page = await level.iterator({ gt: after, lt: range.lt, limit: atOnce }).all()
    const keys = page.flatMap(([key, text]) => keysOf(key, text))
    await level.batch(keys.map((key) => ({ type: 'put' as const, key, value: '' })))
    if (page.length < atOnce) return
    after = page.at(-1)![0]
  }
}
