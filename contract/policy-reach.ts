/** What a policy puts in a principal's reach, for people who have to know what somebody else could have touched. */
import type { PolicyAction, PolicyDocument } from './policy-document.ts'
import { expandDenied, expandPattern, matchHolds } from './policy-match.ts'
import type { PrincipalFacts } from './principal-facts.ts'
import { filterCovers } from './topics.ts'

/** Topic filters that the policy allows, variables replaced, without those that it denies whole. */
export function reachOf(document: PolicyDocument, facts: PrincipalFacts): Record<PolicyAction, string[]> {
  const applying = document.policies.filter(({ match }) => matchHolds(match, facts))
  const filtersOf = (action: PolicyAction): string[] => {
    const denied = applying.flatMap(({ deny }) =>
      (deny[action] ?? []).flatMap((text) => expandDenied(text, facts, () => false)),
    )
    const allowed = applying.flatMap(({ allow }) => (allow[action] ?? []).flatMap((text) => expandPattern(text, facts)))
    return [...new Set(allowed)].filter((filter) => !denied.some((wide) => filterCovers(wide, filter)))
  }
  return { publish: filtersOf('publish'), subscribe: filtersOf('subscribe') }
}
