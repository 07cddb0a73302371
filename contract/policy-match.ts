/** For whom a statement is, and which topic filters its patterns stand for. */
import { type FactName, factNameOf, isVariable, type PrincipalFacts } from './principal-facts.ts'
import { isGatewayTopic, isTopicFilter } from './topics.ts'

export const placeholder = /\$\{([^}]*)\}/g
/** What a pattern may stand for at most: a certificate can hold a hundred values under one name. */
const maxFilters = 1_000

type Match = { readonly [name: string]: readonly string[] }

/** @returns whether a statement with this `match` is for a principal with these facts */
export function matchHolds(match: Match, facts: PrincipalFacts): boolean {
  return Object.entries(match).every(([name, wanted]) => valueHolds(wanted, facts[factNameOf(name)]))
}

/** One condition of a `match`. */
export const valueHolds = (wanted: readonly string[], values: readonly string[] = []): boolean =>
  wanted.some((glob) => values.some((value) => globMatches(glob, value)))

/**
 * @returns the topic filters that `text` stands for with these facts: one for each combination of values, none when a
 *   variable is missing or has a value that is empty or holds `+ # /`, a control character or a leading `$`, or when there
 *   would be more than a thousand
 */
export function expandPattern(text: string, facts: PrincipalFacts): string[] {
  return text.includes('${') ? (combinations(text, facts, isSafeLevel) ?? []) : [text]
}

/**
 * As `expandPattern`, for what is denied: a value that reaches beyond its level stands for the topics that it names, and is not
 * passed over; where too many filters would be needed, or values are not known, one that is wide enough for all that stand in a
 * level.
 */
export function expandDenied(text: string, facts: PrincipalFacts, isUnknown: (name: string) => boolean): string[] {
  if (!text.includes('${')) return [text]
  const hasUnknown = [...text.matchAll(placeholder)].some(([, name]) => isUnknown(name!))
  const filters = hasUnknown ? undefined : combinations(text, facts, isInTopics)
  return filters ?? [text.replaceAll(/[^/]*\$\{[^}]*\}[^/]*/g, '+')]
}

function combinations(text: string, facts: PrincipalFacts, isFit: (value: string) => boolean): string[] | undefined {
  const { literals, names, isOfGateway } = patternOf(text)
  let results = [literals[0]!]
  for (const [at, name] of names.entries()) {
    const values = name === undefined ? [] : (facts[name] ?? []).filter(isFit)
    if (results.length * values.length > maxFilters) return undefined
    results = results.flatMap((start) => values.map((value) => start + value + literals[at + 1]!))
  }
  return results.filter((filter) => isTopicFilter(filter) && (!filter.startsWith('$') || isOfGateway))
}

/** A literal stands before each variable, and one behind the last; a name that is no variable has no values. */
type Pattern = { literals: string[]; names: (FactName | undefined)[]; isOfGateway: boolean }

const patterns = new Map<string, Pattern>()
/** A document has few, and each is asked for by every connection. */
const maxPatterns = 10_000

function patternOf(text: string): Pattern {
  let pattern = patterns.get(text)
  if (pattern === undefined) {
    const parts = text.split(placeholder) // with the names, as they are captured
    const names = parts.filter((_, at) => at % 2 === 1).map((name) => (isVariable(name) ? name : undefined))
    pattern = { literals: parts.filter((_, at) => at % 2 === 0), names, isOfGateway: isGatewayTopic(text) }
    if (patterns.size >= maxPatterns) patterns.clear()
    patterns.set(text, pattern)
  }
  return pattern
}

const isSafeLevel = (value: string): boolean =>
  /^[^+#/$\u0000-\u001f\u007f-\u009f][^+#/\u0000-\u001f\u007f-\u009f]*$/u.test(value)

/** What no topic holds names none. */
const isInTopics = (value: string): boolean => !/[+#\u0000]/.test(value)

function globMatches(glob: string, value: string): boolean {
  if (!glob.includes('*')) return glob === value
  const parts = glob.split('*')
  const first = parts.shift()!
  const last = parts.pop()!
  if (!value.startsWith(first) || !value.endsWith(last) || value.length < first.length + last.length) return false
  let at = first.length
  const end = value.length - last.length
  for (const part of parts) {
    const found = value.indexOf(part, at)
    if (found < 0 || found + part.length > end) return false
    at = found + part.length
  }
  return true
}
