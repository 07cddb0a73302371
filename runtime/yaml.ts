import { LineCounter, parseDocument, stringify } from 'yaml'
import type { z } from 'zod'
import type { ProblemCode } from '../contract/problems.ts'
import { FleetError } from './errors.ts'
import { childOf, keysOf } from './schema.ts'

/**
 * YAML text into a schema's value. Anchors may be used, but not so that a small file grows large.
 *
 * @param source named in the error, usually the file's path
 * @param code   the problem to throw: `config_invalid` or `policy_invalid`
 * @throws FleetError with one line for each fault: `source:line:column path: what is wrong`
 */
export function parseYaml<S extends z.ZodType>(
  text: string,
  schema: S,
  source: string,
  code: ProblemCode,
): z.output<S> {
  return readYaml(text, schema, source, code).value
}

/** As `parseYaml`, with the place of each key and item: `source:line:column`. */
export function readYaml<S extends z.ZodType>(
  text: string,
  schema: S,
  source: string,
  code: ProblemCode,
): { value: z.output<S>; placeOf: (path: PropertyKey[]) => string } {
  const lines = new LineCounter()
  const document = parse(text, lines, source, code)
  const place = (offset: number): string => {
    const { line, col } = lines.linePos(offset)
    return `${source}:${line}:${col}`
  }
  const broken = document.errors[0]
  if (broken) throw new FleetError(code, `${place(broken.pos[0])}: ${broken.message}`)
  let value: unknown
  try {
    value = document.toJS({ maxAliasCount: 100 }) ?? {}
  } catch (cause) {
    throw new FleetError(code, `${source}: ${cause instanceof Error ? cause.message : 'cannot be read'}`, { cause })
  }
  const result = schema.safeParse(value)
  if (result.success) return { value: result.data, placeOf: (path) => place(offsetOf(document, path)) }
  const faults = result.error.issues.map((issue) => {
    const path = [...issue.path]
    if (issue.code === 'unrecognized_keys') path.push(issue.keys[0]!)
    return `${place(offsetOf(document, path))}: ${describeIssue(issue, schema)}`
  })
  throw new FleetError(code, faults.join('\n'))
}

function parse(
  text: string,
  lineCounter: LineCounter,
  source: string,
  code: ProblemCode,
): ReturnType<typeof parseDocument> {
  try {
    return parseDocument(text, { lineCounter, prettyErrors: false })
  } catch (cause) {
    // The parser recurses, so nesting without end reaches the stack's.
    throw new FleetError(code, `${source}: nested too deeply to be read`, { cause })
  }
}

/** Without anchors: the same object twice is written twice. @param isQuoted every text and key in double quotes */
export const toYaml = (value: unknown, { isQuoted = false } = {}): string =>
  stringify(value, {
    aliasDuplicateObjects: false,
    lineWidth: 0,
    ...(isQuoted ? { defaultStringType: 'QUOTE_DOUBLE', defaultKeyType: 'QUOTE_DOUBLE' } : {}),
  })

/** One sentence for a schema fault: path, what is wrong and, where a key is unknown to the given schema, the known ones. */
export function describeIssue(issue: z.core.$ZodIssue, schema?: unknown): string {
  const path = issue.path.map(String).join('.')
  const known = issue.code === 'unrecognized_keys' ? keysOf(issue.path.reduce(childOf, schema)) : []
  const sentence = known.length > 0 ? `${issue.message}; known here: ${known.join(', ')}` : issue.message
  return path === '' ? sentence : `${path}: ${sentence}`
}

function offsetOf(document: ReturnType<typeof parseDocument>, path: PropertyKey[]): number {
  for (let depth = path.length; depth > 0; depth--) {
    const keys = path.slice(0, depth)
    const parent = depth === 1 ? document.contents : document.getIn(keys.slice(0, -1), true)
    const items = (parent as { items?: unknown[] } | null)?.items ?? []
    for (const item of items) {
      const key = (item as { key?: { value?: unknown; range?: number[] } }).key
      if (key?.value === keys.at(-1) && key?.range) return key.range[0]!
    }
    const node = document.getIn(keys, true) as { range?: number[] } | undefined
    if (node?.range) return node.range[0]!
  }
  return 0
}
