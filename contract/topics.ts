/** Topic names and filters (MQTT 3.1.1 and 5, section 4.7). */

const maxBytes = 65_535
/** Deeper topics are refused: aedes' matcher throws beyond 100 levels. */
export const maxTopicLevels = 100

function wellFormed(text: string): boolean {
  return (
    text.length > 0 && // [MQTT-4.7.3-1]
    !text.includes('\u0000') && // [MQTT-4.7.3-2]
    text.isWellFormed() &&
    text.length <= maxBytes // [MQTT-4.7.3-3], in characters here; the codec bounds the bytes
  )
}

/** @returns whether `text` may stand in a PUBLISH: not empty, no wildcard, no U+0000, at most 100 levels. */
export function isTopicName(text: string): boolean {
  return wellFormed(text) && !text.includes('+') && !text.includes('#') && hasFewLevels(text)
}

/** Asked for every message, so no list of levels is made. */
function hasFewLevels(text: string): boolean {
  let levels = 1
  for (let at = text.indexOf('/'); at >= 0; at = text.indexOf('/', at + 1)) levels++
  return levels <= maxTopicLevels
}

/** @returns whether `text` may stand in a SUBSCRIBE: each wildcard fills its level, `#` is last. */
export function isTopicFilter(text: string): boolean {
  if (!wellFormed(text)) return false
  const levels = text.split('/')
  return (
    levels.length <= maxTopicLevels &&
    levels.every((level, at) => {
      if (level.includes('#')) return level === '#' && at === levels.length - 1 // [MQTT-4.7.1-1]
      if (level.includes('+')) return level === '+' // [MQTT-4.7.1-2]
      return true
    })
  )
}

const gatewayPlaces = ['$fleetgate/devices/', '$fleetgate/events/']

/**
 * Whether a topic, a filter or a pattern of a policy is below the places where the gateway itself publishes. Of all that begins
 * with `$` these alone can be subscribed to, and nobody else can publish there.
 */
export const isGatewayTopic = (text: string): boolean => gatewayPlaces.some((place) => text.startsWith(place))

/**
 * Whether topic `name` matches `filter`; both are taken to be well formed.
 * A filter that begins with a wildcard does not match a topic that begins with `$` [MQTT-4.7.2-1].
 */
export function topicMatches(filter: string, name: string): boolean {
  return filterCovers(filter, name)
}

/**
 * Whether every topic that `narrow` can match is matched by `wide` too. `narrow` may be a topic name.
 * `a/#` covers `a`, `a/b` and `a/+/c`; `+` covers neither `#` nor a level that is missing.
 */
export function filterCovers(wide: string, narrow: string): boolean {
  if (narrow.startsWith('$') && (wide.startsWith('+') || wide.startsWith('#'))) return false
  const a = wide.split('/')
  // No topic is empty [MQTT-4.7.3-1], so `#` matches what `+/#` does, and `/#` what `/+/#` does.
  const b = (narrow === '#' || narrow === '/#' ? narrow.replace('#', '+/#') : narrow).split('/')
  for (let i = 0; i < a.length; i++) {
    const level = a[i]
    if (level === '#') return true
    const other = b[i]
    if (other === undefined || other === '#') return false
    if (level !== '+' && level !== other) return false
  }
  return a.length === b.length
}
