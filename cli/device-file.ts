/** Files with one device in each row: CSV (RFC 4180) with a head, or a JSON list. */
import { readFileSync } from 'node:fs'
import { InvalidArgumentError } from 'commander'
import { z } from 'zod'
import { createDevice, createToken } from '../contract/admin-api.ts'
import { systemFault } from '../runtime/errors.ts'
import { describeIssue } from '../runtime/yaml.ts'

const columns = ['id', 'profile', 'groups', 'attributes'] as const
type Column = (typeof columns)[number]
const maxBytes = 256 * 1024 * 1024

/** `line` is where it begins in the file, or its place in a JSON list. */
export type Row<T> = { line: number; id: string } & ({ value: T } | { fault: string })
type Raw = { line: number; value: unknown }

const importRow = createDevice
const tokenRow = z.strictObject({
  id: createDevice.shape.id,
  profile: createToken.shape.profile,
  groups: createToken.shape.groups,
  attributes: createDevice.shape.attributes,
})
export type ImportRow = z.input<typeof importRow>
export type TokenRow = z.input<typeof tokenRow>

/** @throws InvalidArgumentError for a file that cannot be read as a whole; what is wrong with one row stands in it */
export const readImportRows = (path: string): Row<ImportRow>[] => checked(readRows(path), importRow)
export const readTokenRows = (path: string): Row<TokenRow>[] => checked(readRows(path), tokenRow)

function checked<S extends z.ZodType>(rows: Raw[], schema: S): Row<z.input<S>>[] {
  const firstAt = new Map<string, number>()
  return rows.map(({ line, value }) => {
    const id = String((value as { id?: unknown } | null)?.id ?? '').slice(0, 80)
    const result = schema.safeParse(value)
    if (!result.success) {
      return { line, id, fault: result.error.issues.map((issue) => describeIssue(issue, schema)).join('; ') }
    }
    const first = firstAt.get(id)
    if (first !== undefined) return { line, id, fault: `it stands in line ${first} already` }
    firstAt.set(id, line)
    return { line, id, value: value as z.input<S> }
  })
}

function readRows(path: string): Raw[] {
  const rows = path.endsWith('.json') ? jsonRows(readText(path)) : csvRows(readText(path))
  if (rows.length === 0) throw new InvalidArgumentError('There is no device in it.')
  return rows
}

function readText(path: string): string {
  try {
    const octets = readFileSync(path)
    if (octets.length > maxBytes) throw new Error(`it has more than ${maxBytes} bytes`)
    return new TextDecoder('utf-8', { fatal: true }).decode(octets)
  } catch (error) {
    throw new InvalidArgumentError(`It cannot be read: ${systemFault(error)}.`)
  }
}

function jsonRows(text: string): Raw[] {
  let list: unknown
  try {
    list = JSON.parse(text)
  } catch (error) {
    throw new InvalidArgumentError(`It is not JSON: ${(error as Error).message}.`)
  }
  if (!Array.isArray(list)) throw new InvalidArgumentError('A list of devices is wanted: [{ "id": "cam-1", … }].')
  return list.map((value, at) => ({ line: at + 1, value }))
}

function csvRows(text: string): Raw[] {
  const [head, ...records] = csvRecords(text)
  const names = (head?.cells ?? []).map((name) => name.trim().toLowerCase())
  const unknown = names.find((name) => !columns.includes(name as Column))
  if (unknown !== undefined || !names.includes('id') || new Set(names).size < names.length) {
    const seen = unknown === undefined ? names.join(',') : unknown
    throw new InvalidArgumentError(
      `Its first line names the columns: id, and as wanted ${columns.slice(1).join(', ')}, each once; seen: ${seen.slice(0, 80)}`,
    )
  }
  return records.map(({ line, cells }) => {
    const more = cells.length > names.length ? { [`column ${names.length + 1}`]: cells[names.length] } : {}
    const given = names.flatMap((name, at) => {
      const cell = cells[at]?.trim() ?? ''
      return cell === '' ? [] : [[name, cellValue(name as Column, cell)] as const]
    })
    return { line, value: { ...Object.fromEntries(given), ...more } }
  })
}

/** Several in one cell are parted by `;`. */
function cellValue(column: Column, cell: string): unknown {
  if (column === 'id' || column === 'profile') return cell
  const parts = cell.split(';').map((part) => part.trim())
  if (column === 'groups') return parts
  // With a null prototype, so that a name such as __proto__ stays one and is refused.
  const attributes: Record<string, string> = Object.create(null)
  for (const part of parts) {
    const at = part.indexOf('=')
    attributes[at < 0 ? part : part.slice(0, at)] = at < 0 ? '' : part.slice(at + 1)
  }
  return attributes
}

/** RFC 4180 2: fields with quotes may hold commas, line ends and doubled quotes. Empty lines and lines of a comment are passed over. */
export function csvRecords(text: string): { line: number; cells: string[] }[] {
  const records: { line: number; cells: string[] }[] = []
  const field = /(?:"((?:[^"]|"")*)"[ \t]*|([^",\r\n]*))(,|\r?\n|\r|$)/y
  let line = 1
  for (let at = text.startsWith('\ufeff') ? 1 : 0; at < text.length; ) {
    const comment = /^#.*(?:\r?\n|\r|$)/my
    comment.lastIndex = at
    const [skipped = ''] = comment.exec(text) ?? []
    if (skipped !== '') {
      at += skipped.length
      line++
      continue
    }
    const record = { line, cells: [] as string[] }
    for (let end = ','; end === ','; ) {
      field.lastIndex = at
      const found = field.exec(text)
      if (found === null) throw new InvalidArgumentError(`Line ${line}: a quote is not where it belongs.`)
      const [whole, quoted, plain = '', after = ''] = found
      record.cells.push(quoted === undefined ? plain : quoted.replaceAll('""', '"'))
      at += whole.length
      line += whole.match(/\r?\n|\r/g)?.length ?? 0
      end = after
    }
    if (record.cells.some((cell) => cell.trim() !== '')) records.push(record)
  }
  return records
}
