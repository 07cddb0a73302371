/** What a gateway that runs says of itself. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { StatusView } from '../../contract/admin-api.ts'
import type { CrlView } from '../../contract/crl-api.ts'
import { commandLine } from '../../runtime/endpoints.ts'
import { type Finding, fail, ok, warn } from './finding.ts'

const waitMs = 100
const looks = 30

/**
 * A broker that was told a moment ago is not behind: it has three seconds to catch up with where the feed was when it was first asked.
 *
 * @returns the last answer, with the place of the feed from the first
 */
export async function settledStatus(ask: () => Promise<StatusView>): Promise<StatusView> {
  const first = await ask()
  let status = first
  for (let look = 0; look < looks && status.brokers.some((broker) => isBehind(broker, first.feedSeq)); look++) {
    await sleep(waitMs)
    status = { ...(await ask()), feedSeq: first.feedSeq }
  }
  return status
}

const isBehind = ({ connected, appliedSeq }: StatusView['brokers'][number], feedSeq: number): boolean =>
  connected && appliedSeq < feedSeq

const dayMs = 86_400_000

/** There is no rollover, so a year is what it takes to have another gateway and every device on it. */
export function judgeAuthorities({ authorities }: StatusView, now: Date): Finding[] {
  return Object.entries(authorities ?? {}).map(([name, end]) => {
    const days = Math.floor((Date.parse(end) - now.getTime()) / dayMs)
    const sentence = `the certificate of the ${name.replace('Ends', '')} CA is valid until ${end}, ${days} days left`
    if (days >= 365) return ok('CA', sentence)
    const fix = 'no certificate goes on for longer, and then none is issued: see Rotate in docs/operations.md'
    return days < 90 ? fail('CA', sentence, fix) : warn('CA', sentence, fix)
  })
}

export function judgeStatus(status: StatusView, dataDir: string): Finding[] {
  const findings = [ok('gateway', `version ${status.version} runs since ${status.startedAt}`)]
  const { refused, waitsForRestart = [] } = status.configuration ?? {}
  if (refused !== undefined) {
    const sentence = `the configuration file is not in force: ${refused}`
    findings.push(fail('configuration', sentence, `correct it, then: ${commandLine(['config', 'check'], dataDir)}`))
  }
  if (waitsForRestart.length > 0) {
    const sentence = `changed, and not in force yet: ${waitsForRestart.join(', ')}`
    findings.push(warn('configuration', sentence, 'restart the gateway'))
  }
  if (status.brokers.length === 0) {
    findings.push(warn('brokers', 'no broker has ever connected', 'start one, and look into its log'))
  }
  return [...findings, ...status.brokers.map((broker) => judgeBroker(broker, status.feedSeq, dataDir))]
}

function judgeBroker(broker: StatusView['brokers'][number], feedSeq: number, dataDir: string): Finding {
  const { id, connected, appliedSeq, lastSeenAt } = broker
  if (!connected) {
    const fix = `start it; if it is gone for good: ${commandLine(['broker', 'forget', id], dataDir)}`
    return fail('brokers', `${id} is not connected; it was until ${lastSeenAt}`, fix)
  }
  if (!isBehind(broker, feedSeq)) return ok('brokers', `${id} is connected, and has all of the trust feed`)
  const sentence = `${id} is ${feedSeq - appliedSeq} events of the trust feed behind`
  return warn('brokers', sentence, 'ask again; if it stays so, look into its log for feed.')
}

export function judgeLists(lists: readonly CrlView[], now: Date, dataDir: string): Finding[] {
  if (lists.length === 0) return [ok('CRL', 'none are served (enroll.status.url)')]
  const publish = commandLine(['crl', 'publish'], dataDir)
  const late = lists.filter(({ nextUpdate }) => new Date(nextUpdate) <= now)
  if (late.length > 0) {
    return late.map(({ name, nextUpdate }) => fail('CRL', `${name} has run out at ${nextUpdate}`, publish))
  }
  const first = lists.toSorted((a, b) => a.nextUpdate.localeCompare(b.nextUpdate))[0]!
  const age = (now.getTime() - new Date(first.thisUpdate).getTime()) / 60_000
  return [
    ok(
      'CRL',
      `${lists.length} are current; ${first.name}, ${Math.floor(age)} min old, is renewed before ${first.nextUpdate}`,
    ),
  ]
}
