/** Lists that may be as long as the fleet: shown page by page, so that none is held as a whole. */
import type { Io } from './io.ts'
import { json, tableInParts, yaml } from './output.ts'

type Form = 'table' | 'json' | 'yaml' | 'name' | 'csv'
type Columns<T> = { head: string[]; row(item: T): (string | undefined)[] }

/** The text that `json`, `yaml` and `table` give for all of them, as it comes. */
export async function printPages<T>(
  io: Io,
  form: Form,
  pages: AsyncIterable<T[]>,
  { columns, names }: { columns: Columns<T>; names(page: T[]): string },
): Promise<void> {
  const part = partsOf(form, columns, io.colour)
  for await (const page of pages) io.out(form === 'name' ? names(page) : part.next(page))
  if (form !== 'name') io.out(part.end())
}

type Parts<T> = { next(page: T[]): string; end(): string }

function partsOf<T>(form: Form, { head, row }: Columns<T>, colour: boolean): Parts<T> {
  if (form === 'json') return jsonParts()
  if (form === 'yaml') return yamlParts()
  const rows = tableInParts(head, colour)
  return { next: (page) => rows(page.map(row)), end: () => '' }
}

function jsonParts<T>(): Parts<T> {
  let before = '{\n  "items": ['
  let end = `${before}]\n}\n`
  return {
    next: (page) =>
      page
        .map((item) => {
          const text = `${before}\n${json(item).trimEnd().replaceAll(/^/gm, '    ')}`
          before = ','
          end = '\n  ]\n}\n'
          return text
        })
        .join(''),
    end: () => end,
  }
}

function yamlParts<T>(): Parts<T> {
  let isFirst = true
  return {
    next(items) {
      if (items.length === 0) return ''
      const text = yaml({ items })
      const shown = isFirst ? text : text.slice(text.indexOf('\n') + 1)
      isFirst = false
      return shown
    },
    end: () => (isFirst ? yaml({ items: [] }) : ''),
  }
}
