/** When and from where a client may connect. */
import { z } from 'zod'
import { isWithin, parseNetwork } from './networks.ts'

const weekdays = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'] as const

const time = z.string().regex(/^(([01]\d|2[0-3]):[0-5]\d|24:00)$/, 'a time of day is wanted, such as "08:30"')

const window = z
  .strictObject({
    days: z.array(z.enum(weekdays)).min(1).optional().describe('Days on which it begins; without it, every day'),
    from: time.default('00:00').describe('UTC'),
    to: time.default('24:00').describe('UTC, not itself part of it; earlier than `from`: on the next day'),
  })
  .refine(({ from, to }) => from !== to && from !== '24:00', 'a window that is never open')

/** Of the kinds that are given each has to hold, by any one of its entries. */
export const connectConditions = z
  .strictObject({
    times: z.array(window).min(1).optional().describe('When, in UTC'),
    networks: z
      .array(z.string().refine((text) => parseNetwork(text) !== undefined, 'a network is wanted, such as 10.0.0.0/8'))
      .min(1)
      .max(256)
      .optional()
      .describe('From where: IPv4 and IPv6 networks'),
  })
  .refine(({ times, networks }) => times !== undefined || networks !== undefined, 'times or networks are wanted')
export type ConnectConditions = z.output<typeof connectConditions>

/** @returns what does not hold, in words; undefined when all does */
export function conditionFault(
  { times, networks }: ConnectConditions,
  { now, remoteAddress }: { now: Date; remoteAddress: string },
): string | undefined {
  if (times !== undefined && !times.some((one) => isOpen(one, now))) {
    return `not at this time: ${weekdays[now.getUTCDay()]} ${now.toISOString().slice(11, 16)} UTC`
  }
  if (networks !== undefined && !networks.some((text) => isWithin(remoteAddress, parseNetwork(text)!))) {
    return `not from this network: ${remoteAddress}`
  }
  return undefined
}

function isOpen({ days, from, to }: z.output<typeof window>, now: Date): boolean {
  const isDay = (day: number): boolean => days === undefined || days.includes(weekdays[(day + 7) % 7]!)
  const today = now.getUTCDay()
  const minute = now.getUTCHours() * 60 + now.getUTCMinutes()
  const [begins, ends] = [minuteOf(from), minuteOf(to)]
  if (begins < ends) return isDay(today) && minute >= begins && minute < ends
  return (isDay(today) && minute >= begins) || (isDay(today - 1) && minute < ends)
}

const minuteOf = (text: string): number => Number(text.slice(0, 2)) * 60 + Number(text.slice(3))
