/** What the printed pages have in common. */
import { z } from 'zod'

export type Node = {
  type?: string
  description?: string
  default?: unknown
  properties?: Record<string, Node>
  additionalProperties?: Node | boolean
  enum?: string[]
  minimum?: number
  maximum?: number
  items?: Node & { required?: string[] }
  pattern?: string
}

export const shapeOf = (view: z.ZodType): Node & { required?: string[] } =>
  z.toJSONSchema(view, { io: 'output', target: 'draft-2020-12', unrepresentable: 'any' }) as Node
/** For readers: fields are added, and who checks must not refuse them. */
export function open(shape: Node): object {
  const isClosing = (key: string): boolean => key === 'additionalProperties' || key === '$schema'
  return JSON.parse(JSON.stringify(shape), (key, value) => (isClosing(key) ? undefined : value))
}

export const printedBy = '<!-- Printed by `npm run docs`; do not edit. -->'

export function formatted(document: object): string {
  // Lists of plain values on one line where they fit, as the formatter of this repository wants them.
  const text = JSON.stringify(document, null, 2).replaceAll(/\[[^[\]{}]*\]/g, (list, at: number, whole: string) => {
    const line = list
      .replaceAll(/\s*\n\s*/g, ' ')
      .replace('[ ', '[')
      .replace(' ]', ']')
    return at - whole.lastIndexOf('\n', at) + line.length > 120 ? list : line
  })
  return `${text}\n`
}

/** Rows of a table: each field of a shape, those within it behind it. */
export function fields(node: Node & { required?: string[] }, prefix: string): string[] {
  return Object.entries(node.properties ?? {}).flatMap(([name, child]) => {
    const path = `${prefix}${name}`
    const inner = child.items?.properties ? fields(child.items, `${path}[].`) : fields(child, `${path}.`)
    const type = child.enum
      ? child.enum.join(', ')
      : child.items
        ? `list of ${child.items.type}`
        : (child.type ?? 'any')
    const notes = [node.required?.includes(name) ? '' : 'may be missing', child.description ?? ''].filter(
      (note) => note !== '',
    )
    // A policy document has a page of its own in the README.
    return [`| \`${path}\` | ${type} | ${notes.join('; ')} |`, ...(name === 'document' ? [] : inner)]
  })
}
