import type { SessionCut } from '../../contract/broker-reports.ts'
import type { Stored } from './engine.ts'
import type { Registry, Write } from './registry.ts'

/** A connection that a broker has ended, and when we heard of it. */
export type Cut = Omit<SessionCut, 'type' | 'deviceId'> & { broker: string; heardAt: string }
/** The last connections of a device that were ended for its standing, the oldest first. */
export type CutsRecord = { deviceId: string; cuts: Cut[] }

const maxCuts = 64

export const findCuts = (registry: Registry, deviceId: string): Promise<Stored<CutsRecord> | undefined> =>
  registry.find('cuts', deviceId)

/** @param before as it was read; undefined: there was none */
export const writeCut = (deviceId: string, cut: Cut, before: Stored<CutsRecord> | undefined): Write => ({
  kind: 'cuts',
  id: deviceId,
  expect: before?.rev ?? 0,
  doc: { deviceId, cuts: [...(before?.doc.cuts ?? []), cut].slice(-maxCuts) },
})
