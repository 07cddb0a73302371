/** A registry's engine that fails or dawdles as a test says. */
import { setImmediate as turn } from 'node:timers/promises'
import type { RegistryEngine } from '../../enroll/registry/engine.ts'

export type Death = { atWrite: number; when: 'before' | 'after' }
type Method = (...input: never[]) => Promise<unknown>

function around(engine: RegistryEngine, wrap: (name: string, method: Method) => Method): RegistryEngine {
  return new Proxy(engine, {
    get(target, name) {
      const value = target[name as keyof RegistryEngine] as unknown
      return typeof value === 'function' ? wrap(String(name), value.bind(target)) : value
    },
  })
}

/** Nothing is written any more from `death` on. */
export function mortal(engine: RegistryEngine, death: Death | undefined): RegistryEngine {
  let writes = 0
  const killed = new Error('killed')
  return around(engine, (name, method) => {
    if (name !== 'write' || death === undefined) return method
    return async (...input) => {
      writes++
      if (writes > death.atWrite || (writes === death.atWrite && death.when === 'before')) throw killed
      const answer = await method(...input)
      if (writes === death.atWrite) throw killed
      return answer
    }
  })
}

const unhurried = new Set(['write', 'getMany', 'page'])

/** Each call waits some turns of the event loop, at random, so that what runs at once meets in another order each time. */
export const dawdling = (engine: RegistryEngine, below: (limit: number) => number): RegistryEngine =>
  around(engine, (name, method) =>
    unhurried.has(name)
      ? async (...input) => {
          for (let left = below(4); left > 0; left--) await turn()
          return method(...input)
        }
      : method,
  )

/** @param work runs before each write, with how many there were, it included */
export function beforeWrite(engine: RegistryEngine, work: (count: number) => Promise<unknown>): RegistryEngine {
  let count = 0
  return around(engine, (name, method) =>
    name !== 'write'
      ? method
      : async (...input) => {
          await work(++count)
          return method(...input)
        },
  )
}
