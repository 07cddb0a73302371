import { styleText } from 'node:util'
import { toYaml } from '../runtime/yaml.ts'

// Controls, format characters (direction overrides among them), surrogates and line separators: none may act on a terminal.
const unseen = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu
const unseenInJson = /[\p{Cf}\u007f-\u009f\u2028\u2029]/gu

const codePoint = (character: string): string => character.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0')

/** Text from a certificate, a device or a log, fit for a terminal: what cannot be seen is written as `<U+202E>`. */
export const visible = (text: string): string => text.replaceAll(unseen, (character) => `<U+${codePoint(character)}>`)

/** JSON for scripts; what a terminal would obey is escaped, which changes no value. */
export const json = (value: unknown): string => `${escaped(JSON.stringify(value, null, 2))}\n`

/** The same as YAML. */
export function yaml(value: unknown): string {
  const plain: unknown = JSON.parse(JSON.stringify(value))
  const text = toYaml(plain)
  // Only between double quotes can YAML escape anything.
  return text.search(unseenInJson) < 0 ? text : escaped(toYaml(plain, { isQuoted: true }))
}

const escaped = (text: string): string =>
  text.replaceAll(unseenInJson, (character) =>
    [...Array(character.length).keys()]
      .map((at) => `\\u${character.charCodeAt(at).toString(16).padStart(4, '0')}`)
      .join(''),
  )

export type Style = Parameters<typeof styleText>[0]

export const styled = (style: Style, text: string, colour: boolean): string =>
  colour ? styleText(style, text, { validateStream: false }) : text

/** Columns as wide as their widest cell; a cell that is missing shows as `-`. */
export const table = (head: string[], rows: Row[], colour: boolean): string => tableInParts(head, colour)(rows)

type Row = (string | undefined)[]

/** The same for rows that come in parts: the head stands before the first, and a column grows from where it has to. */
export function tableInParts(head: string[], colour: boolean): (rows: Row[]) => string {
  let widths = head.map((title) => title.length)
  let before = [head.map((title) => title.toUpperCase())]
  return (rows) => {
    const cells = rows.map((row) => row.map((cell) => (cell === undefined || cell === '' ? '-' : visible(cell))))
    widths = widths.map((width, column) => cells.reduce((most, row) => Math.max(most, row[column]!.length), width))
    const line = (row: string[]): string =>
      row
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join('  ')
        .trimEnd()
    const lines = [...before.map((row) => styled('dim', line(row), colour)), ...cells.map(line)]
    before = []
    return lines.map((text) => `${text}\n`).join('')
  }
}

/** RFC 4180, with a head. */
export function csv<K extends string>(
  columns: readonly K[],
  rows: readonly { [name in K]?: string | undefined }[],
): string {
  const field = (text: string): string => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text)
  const line = (cells: string[]): string => `${cells.map(field).join(',')}\n`
  return [line([...columns]), ...rows.map((row) => line(columns.map((name) => row[name] ?? '')))].join('')
}

/** One `name  value` line each; what is missing is left out. */
export function fields(pairs: [name: string, value: string | undefined][], colour: boolean): string {
  const present = pairs.filter(([, value]) => value !== undefined && value !== '')
  const width = Math.max(...present.map(([name]) => name.length))
  return present.map(([name, value]) => `${styled('dim', name.padEnd(width), colour)}  ${visible(value!)}\n`).join('')
}

export const milliseconds = (ms: number): string => `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`
