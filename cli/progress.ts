import { SingleBar } from 'cli-progress'
import type { Io } from './io.ts'

/** @returns undefined where nobody watches */
export function progressBar(io: Io, what: string, total: number): SingleBar | undefined {
  if (!io.isTerminal) return undefined
  const bar = new SingleBar({ format: `  ${what} {bar} {value}/{total}`, clearOnComplete: true, hideCursor: true })
  bar.start(total, 0)
  return bar
}
