/** What is valid in a policy and most likely not meant. */
import { isDeviceId, isGroupName } from './ids.ts'
import type { PolicyAction, PolicyDocument, PolicyStatement } from './policy-document.ts'
import { valueHolds } from './policy-match.ts'
import { factNameOf } from './principal-facts.ts'
import { filterCovers } from './topics.ts'
import { verificationStates } from './verification.ts'

export type PolicyWarning = { path: (string | number)[]; message: string }

/** @param profiles that the gateway issues certificates of */
export function reviewPolicy(document: PolicyDocument, { profiles }: { profiles: readonly string[] }): PolicyWarning[] {
  return document.policies.flatMap((statement, at) =>
    [
      ...unmatched(statement, profiles),
      ...tooWide(statement),
      ...shadowed(statement, document),
      ...withoutEffect(statement),
    ].map(({ path, message }) => ({ path: ['policies', at, ...path], message: `${statement.name}: ${message}` })),
  )
}

const rules: Partial<Record<string, (value: string) => boolean>> = {
  'device.id': isDeviceId,
  'device.group': isGroupName,
}

/** Conditions that no device can meet. */
function unmatched({ match }: PolicyStatement, profiles: readonly string[]): PolicyWarning[] {
  return Object.entries(match).flatMap(([key, values]) => {
    const name = factNameOf(key)
    return values.flatMap((value, at) => {
      const path = ['match', key, at]
      if (name === 'device.profile' && !profiles.some((profile) => valueHolds([value], [profile])))
        return [{ path, message: `there is no profile ${value}; known: ${profiles.join(', ')}` }]
      if (name === 'verify.state' && !verificationStates.some((state) => valueHolds([value], [state])))
        return [{ path, message: `there is no state ${value}; known: ${verificationStates.join(', ')}` }]
      // A star may stand for nothing, so what is left has to be able to begin a name.
      const isPossible = rules[name]?.(value.replaceAll('*', 'x')) ?? true
      return isPossible ? [] : [{ path, message: `no ${name} can be ${value}` }]
    })
  })
}

const isBroad = ({ match }: PolicyStatement): boolean =>
  Object.values(match).every((values) => values.some((value) => /^\*+$/.test(value)))

/** Events are about every device, in whichever topic. */
const eventPlace = '$fleetgate/events/'

function tooWide(statement: PolicyStatement): PolicyWarning[] {
  if (!isBroad(statement)) return []
  return patternsOf(statement, 'allow').flatMap(({ action, text, path }) => {
    const isOfAll = /[+#]/.test(text) || text.startsWith(eventPlace)
    if (!isOfAll || (text.includes('${') && !/^[+#]/.test(text))) return []
    const what = action === 'publish' ? 'publish to' : 'read'
    return [{ path, message: `every device may ${what} ${text}; say in match whom it is for` }]
  })
}

/** What a deny takes away again from everybody it was given to. Variables stand for themselves. */
function shadowed(statement: PolicyStatement, { policies }: PolicyDocument): PolicyWarning[] {
  return patternsOf(statement, 'allow').flatMap(({ action, text, path }) => {
    const against = policies.find(
      (other) => isAtLeastFor(other, statement) && other.deny[action]?.some((denied) => filterCovers(denied, text)),
    )
    if (against === undefined) return []
    return [{ path, message: `${text} is never allowed: ${against.name} denies it to all whom this is for` }]
  })
}

/** Whether `wide` applies wherever `narrow` does. */
const isAtLeastFor = (wide: PolicyStatement, narrow: PolicyStatement): boolean =>
  Object.entries(wide.match).every(([key, globs]) => {
    const name = factNameOf(key)
    const own = Object.entries(narrow.match).filter(([other]) => factNameOf(other) === name)
    // A star is matched by a star alone: what the narrow one lets in, the wide one does.
    return own.some(([, values]) => values.every((value) => valueHolds(globs, [value])))
  })

function withoutEffect(statement: PolicyStatement): PolicyWarning[] {
  const { name: _name, match: _match, allow, deny, ...rest } = statement
  const isSilent = [allow, deny].every(({ publish = [], subscribe = [] }) => publish.length + subscribe.length === 0)
  return isSilent && Object.keys(rest).length === 0 ? [{ path: [], message: 'it says nothing' }] : []
}

const patternsOf = (statement: PolicyStatement, effect: 'allow' | 'deny') =>
  (['publish', 'subscribe'] as const).flatMap((action: PolicyAction) =>
    (statement[effect][action] ?? []).map((text, at) => ({ action, text, path: [effect, action, at] })),
  )
