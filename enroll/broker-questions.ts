import { byLastAt, type Denial, type DenialQuery } from '../contract/denials.ts'
import type { QuestionKind, Questions } from '../contract/feed.ts'
import type { ReloadReceipt } from '../contract/reload-api.ts'
import type { KickReceipt, ListSessions, SessionPage, Unheard } from '../contract/session-api.ts'
import type { VerificationView } from '../contract/verify-api.ts'
import { FleetError } from '../runtime/errors.ts'
import type { Follower } from './feed-follower.ts'
import { listBrokers } from './registry/brokers.ts'
import { type Registry, readAll } from './registry/registry.ts'

const askMs = 2_000
/** A broker that has not heard of a certificate asks about it for as long as it would at a CONNECT. */
const askVerdictsMs = 4_000

/** What only brokers know: asked when somebody wants to know it, and kept nowhere here. */
export class BrokerQuestions {
  readonly #registry: Registry
  readonly #followers: ReadonlyMap<string, Pick<Follower, 'knows' | 'ask'>>

  constructor(registry: Registry, followers: ReadonlyMap<string, Pick<Follower, 'knows' | 'ask'>>) {
    this.#registry = registry
    this.#followers = followers
  }

  /**
   * Asks the brokers what they have refused.
   *
   * @returns newest first, and the brokers that did not say
   */
  async denials(query: DenialQuery): Promise<{ items: Denial[]; unheard: string[] }> {
    const { answers, unheard } = await this.#ask('denials', query)
    const items = answers.flatMap(({ broker, items }) => items.map((denial) => ({ ...denial, by: broker })))
    return { items: items.toSorted(byLastAt).slice(0, query.limit), unheard: unheard.map(({ broker }) => broker) }
  }

  /**
   * Asks the brokers who is connected.
   *
   * @returns in the order of client ids, and of brokers where two have the same
   * @throws FleetError `not_found` of a broker that was never here
   */
  async sessions({ deviceId, broker, listener, after, limit }: ListSessions): Promise<SessionPage> {
    const [from = '', fromBroker = ''] = after?.split('\n') ?? []
    // Each broker begins with the last one of the page before, which it may have or not.
    const asked = limit + 1
    const { answers, unheard } = await this.#ask(
      'sessions',
      { deviceIds: deviceId, listener, from, limit: asked },
      broker,
    )
    const found = answers.flatMap(({ broker, items }) => items.map((session) => ({ ...session, broker })))
    const later = found.filter((one) => one.clientId > from || (one.clientId === from && one.broker > fromBroker))
    const items = later.toSorted(byClientId).slice(0, limit)
    const last = items.at(-1)
    const isMore = later.length > limit || answers.some(({ items }) => items.length >= asked)
    return { items, unheard, ...(isMore && last ? { next: `${last.clientId}\n${last.broker}` } : {}) }
  }

  /**
   * Has the brokers end the session with a client id.
   *
   * @throws FleetError `not_found` of a broker that was never here
   */
  async kick(clientId: string, broker: string | undefined): Promise<KickReceipt> {
    const { answers, unheard } = await this.#ask('kick', { clientId }, broker)
    return {
      kicked: answers.flatMap(({ broker, items }) => items.map((session) => ({ ...session, broker }))),
      unheard,
    }
  }

  /**
   * Asks the brokers what their listeners would do with a certificate.
   *
   * @param certificates DER, as its device would send them
   */
  async verdicts(certificates: readonly Buffer[]): Promise<Pick<VerificationView, 'brokers' | 'unheard'>> {
    const query = { certificates: certificates.map((der) => der.toString('base64')) }
    const { answers, unheard } = await this.#ask('verdicts', query, undefined, askVerdictsMs)
    return { brokers: answers.flatMap(({ broker, items }) => items.map((one) => ({ ...one, broker }))), unheard }
  }

  /** Has each broker read its configuration once more. */
  async reload(): Promise<Pick<ReloadReceipt, 'brokers' | 'unheard'>> {
    const { answers, unheard } = await this.#ask('reload', {})
    return { brokers: answers.flatMap(({ broker, items }) => items.map((one) => ({ ...one, broker }))), unheard }
  }

  async #ask<K extends QuestionKind>(
    kind: K,
    query: Questions[K]['query'],
    broker?: string,
    timeoutMs = askMs,
  ): Promise<{ answers: { broker: string; items: Questions[K]['answer'][] }[]; unheard: Unheard[] }> {
    const known = (await readAll((paging) => listBrokers(this.#registry, paging))).map(({ doc }) => doc.id)
    const meant = broker === undefined ? known : known.filter((id) => id === broker)
    if (broker !== undefined && meant.length === 0) throw new FleetError('not_found', `there is no broker ${broker}`)
    const heard = await Promise.all(
      meant.map(async (id) => {
        const follower = this.#followers.get(id)
        if (follower === undefined) return { broker: id, why: 'not_connected' as const }
        if (!follower.knows.has(kind)) return { broker: id, why: 'not_asked' as const }
        const items = await follower.ask(kind, query, timeoutMs)
        return items === undefined ? { broker: id, why: 'no_answer' as const } : { broker: id, items }
      }),
    )
    return {
      answers: heard.flatMap(({ broker, items }) => (items === undefined ? [] : [{ broker, items }])),
      unheard: heard.flatMap(({ broker, why }) => (why === undefined ? [] : [{ broker, why }])),
    }
  }
}

type Place = { clientId: string; broker: string }

function byClientId(a: Place, b: Place): number {
  if (a.clientId !== b.clientId) return a.clientId < b.clientId ? -1 : 1
  return a.broker < b.broker ? -1 : a.broker > b.broker ? 1 : 0
}
