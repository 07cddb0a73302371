/** Which settings a service that runs puts in force; of the others, those that it was started with count. */
import { z } from 'zod'
import type { Configuration } from './configuration.ts'
import { listenersOf } from './listeners.ts'

/** `*` is any name. Profiles and labels are too, and are told by name. Why no others: docs/decisions/0039. */
export const liveSettings = {
  enroll: ['log.level', 'enroll.attemptsPerMinute', 'enroll.renewalsPerHour'],
  broker: ['log.level', 'broker.maxConnectionsPerDevice', 'broker.maxQuarantined', 'broker.listeners.*.mode'],
} as const

export const isLive = (service: keyof typeof liveSettings, path: string): boolean =>
  liveSettings[service].some((pattern) => {
    const [wanted, given] = [pattern.split('.'), path.split('.')]
    return wanted.length === given.length && wanted.every((part, at) => part === '*' || part === given[at])
  })

/** What a service says after it has read its configuration once more. */
export const reloaded = z.object({
  refused: z
    .string()
    .optional()
    .describe('What is wrong with the configuration file as it is now; the one before is in force'),
  waitsForRestart: z.array(z.string()).describe('Settings that were changed, and are in force after a restart'),
  changed: z.array(z.string()).describe('What is another from now on: settings, and profiles and labels by name'),
})
export type Reloaded = z.output<typeof reloaded>

type Tree = Record<string, unknown>

/** Paths of settings that are others, but for profiles and labels. Listeners are told apart by name; any other list is one value. */
export function differing(before: Configuration, after: Configuration): string[] {
  const compare = (a: Tree, b: Tree, at: string[]): string[] =>
    Object.keys({ ...a, ...b }).flatMap((key) => {
      const [one, other] = [a[key], b[key]]
      const path = [...at, key]
      if (isTree(one) && isTree(other)) return compare(one, other, path)
      return isEqual(one, other) ? [] : [path.join('.')]
    })
  return compare(treeOf(before), treeOf(after), [])
}

function treeOf({ profiles: _profiles, labels: _labels, broker, ...rest }: Configuration): Tree {
  const listeners = Object.fromEntries(listenersOf(broker).map(({ name, ...row }) => [name, row]))
  // That of the first is `broker.listen`.
  const { listen: _listen, ...first } = listeners.mqtts!
  return { ...rest, broker: { ...broker, listeners: { ...listeners, mqtts: first } } }
}

const isTree = (value: unknown): value is Tree => typeof value === 'object' && value !== null && !Array.isArray(value)

/** Of parsed settings, whose keys come in the order of the schema, or of the file for both. */
const isEqual = (one: unknown, other: unknown): boolean => JSON.stringify(one) === JSON.stringify(other)
