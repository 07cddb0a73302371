import { expandPattern, type PolicyAction, type PolicyDocument, statementApplies } from '../contract/policy-document.ts'
import type { PrincipalFacts } from '../contract/principal-facts.ts'
import { filterCovers, isTopicFilter, isTopicName, topicMatches } from '../contract/topics.ts'

/** `statement` is the name of the one that decided; without it nothing spoke for the topic. */
export type Verdict = { allowed: boolean; statement?: string }
export type Matcher = {
  allows(action: PolicyAction, topicOrFilter: string): Verdict
  /** Whether a message on `topic` may reach this principal, whatever filter it was subscribed with. */
  allowsDelivery(topic: string): boolean
}
type Rule = { filter: string; statement: string }
type Rules = { [A in PolicyAction]: { allow: Rule[]; deny: Rule[] } }

const denied: Verdict = { allowed: false }
/** MQTT would take 65,535; what is kept for each subscription and retained message grows with it. */
const maxTopicLength = 1_024

/** The policy as it stands for one principal: variables replaced, statements for others left out. */
export function compilePolicy(document: PolicyDocument, facts: PrincipalFacts): Matcher {
  const rules: Rules = { publish: { allow: [], deny: [] }, subscribe: { allow: [], deny: [] } }
  for (const statement of document.policies) {
    if (!statementApplies(statement, facts)) continue
    for (const action of ['publish', 'subscribe'] as const) {
      for (const effect of ['allow', 'deny'] as const) {
        for (const pattern of statement[effect][action] ?? []) {
          for (const filter of expandPattern(pattern, facts))
            rules[action][effect].push({ filter, statement: statement.name })
        }
      }
    }
  }
  return {
    allows(action, text) {
      // $SYS is aedes' own bus (traps T12, T13); of a shared subscription the filter behind its group is asked.
      if (text.startsWith('$') || text.length > maxTopicLength) return denied
      if (!(action === 'publish' ? isTopicName(text) : isTopicFilter(text))) return denied
      // For a topic name, covering is matching. A deny that a requested filter only overlaps is held at each delivery.
      return decide(rules[action], (filter) => filterCovers(filter, text))
    },
    allowsDelivery(topic) {
      return !topic.startsWith('$') && decide(rules.subscribe, (filter) => topicMatches(filter, topic)).allowed
    },
  }
}

function decide({ allow, deny }: { allow: Rule[]; deny: Rule[] }, speaksFor: (filter: string) => boolean): Verdict {
  const against = deny.find(({ filter }) => speaksFor(filter))
  if (against !== undefined) return { allowed: false, statement: against.statement }
  const inFavour = allow.find(({ filter }) => speaksFor(filter))
  return inFavour === undefined ? denied : { allowed: true, statement: inFavour.statement }
}
