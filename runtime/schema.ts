import { z } from 'zod'

/** A schema without what stands around it: default, optional. */
export function unwrap(schema: unknown): unknown {
  let at = schema
  while (at instanceof z.ZodDefault || at instanceof z.ZodPrefault || at instanceof z.ZodOptional) at = at.unwrap()
  return at
}

/** @returns the schema at a key or an index, undefined when there is none */
export function childOf(schema: unknown, key: PropertyKey): unknown {
  const at = unwrap(schema)
  if (at instanceof z.ZodObject) return Object.hasOwn(at.shape, key) ? at.shape[key as string] : undefined
  if (at instanceof z.ZodArray) return at.element
  return at instanceof z.ZodRecord ? at.valueType : undefined
}

/** @returns the keys that an object may have, none for what is not an object of given keys */
export function keysOf(schema: unknown): string[] {
  const at = unwrap(schema)
  return at instanceof z.ZodObject ? Object.keys(at.shape) : []
}
