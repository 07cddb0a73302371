/** What an operator notes about a device, for policies to look at: `device.attributes.NAME`. */
import { z } from 'zod'

export type DeviceAttributes = Readonly<Record<string, string>>

export const maxAttributes = 32
export const attributeNameRule = 'a lower-case letter, then letters, digits and _, 32 at most'
export const attributeValueRule = '1 to 256 characters, none of them a control character'

export const isAttributeName = (text: string): boolean => /^[a-z][a-z0-9_]{0,31}$/.test(text)
export const isAttributeValue = (text: string): boolean => /^\P{C}{1,256}$/u.test(text)

const value = z.string().refine(isAttributeValue, { error: `the value of an attribute is ${attributeValueRule}` })
const tooMany = `a device has at most ${maxAttributes} attributes`

export const deviceAttributes = named<string>(value)
/** In a change: `null` takes an attribute away, what is not named stays. */
export const attributeChanges = named<string | null>(value.nullable())

export type AttributeChanges = z.output<typeof attributeChanges>

/** @throws RangeError when there would be too many */
export function changedAttributes(before: DeviceAttributes | undefined, changes: AttributeChanges): DeviceAttributes {
  const merged = Object.entries({ ...before, ...changes }).filter(
    (entry): entry is [string, string] => entry[1] !== null,
  )
  if (merged.length > maxAttributes) throw new RangeError(tooMany)
  return Object.fromEntries(merged)
}

/** A record would pass over `__proto__`; here a name is well formed or the whole is refused. */
function named<V>(values: z.ZodType<V, V>) {
  return z
    .custom<Record<string, V>>((input) => typeof input === 'object' && input !== null, 'an object is wanted')
    .superRefine((input, context) => {
      const names = Object.keys(input)
      if (names.length > maxAttributes) context.addIssue({ code: 'custom', message: tooMany })
      for (const name of names) {
        if (isAttributeName(name)) continue
        context.addIssue({ code: 'custom', path: [name], message: `the name of an attribute is ${attributeNameRule}` })
      }
    })
    .pipe(z.record(z.string(), values) as z.ZodType<Record<string, V>, Record<string, V>>)
}

/** `NAME=VALUE`, as the command line takes it and the audit log shows it. */
export const attributePairs = (attributes: DeviceAttributes): string[] =>
  Object.entries(attributes).map(([name, value]) => `${name}=${value}`)
