import { didYouMean } from '../../contract/near-names.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import { listApiTokens } from '../registry/api-tokens.ts'
import { listDevices } from '../registry/devices.ts'
import { listOperators } from '../registry/operators.ts'
import type { Page, Registry } from '../registry/registry.ts'

/** Names that are looked at from each place on. A fleet may have a million: most slips are behind the first letters. */
const lookedAt = 100

/**
 * A refusal of a name that there is not, with those that are like it. For operators alone, each of whom may list them: a
 * device would be told who else there is.
 */
export async function withNearNames(error: unknown, registry: Registry): Promise<unknown> {
  if (!isFleetError(error) || typeof error.context.unknown !== 'string' || error.message.includes(';')) return error
  const { code, message, context } = error
  const name = error.context.unknown
  const near = didYouMean(name, await candidates(registry, code, name))
  return near === '' ? error : new FleetError(code, message + near, { cause: error, context })
}

async function candidates(registry: Registry, code: string, name: string): Promise<string[]> {
  const idsOf = async <T>(page: Promise<Page<T>>, idOf: (doc: T) => string): Promise<string[]> =>
    (await page).items.map(({ doc }) => idOf(doc))
  switch (code) {
    case 'device_unknown': {
      const lists = placesOf(name).map((after) =>
        idsOf(listDevices(registry, { after, limit: lookedAt }), ({ id }) => id),
      )
      return (await Promise.all(lists)).flat()
    }
    case 'operator_unknown':
      return idsOf(listOperators(registry, { isThere: true, limit: lookedAt }), (doc) => doc.name)
    case 'api_token_unknown':
      return idsOf(listApiTokens(registry, { limit: lookedAt }), (doc) => doc.name)
    default:
      return []
  }
}

/** In the order of names: where those begin that have the beginning of this one, as it was typed and in lower case. */
function placesOf(name: string): string[] {
  const lengths = [name.length - 1, Math.ceil(name.length / 2), 1]
  return [...new Set([name, name.toLowerCase()].flatMap((text) => lengths.map((length) => text.slice(0, length))))]
}
