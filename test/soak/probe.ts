/** Loaded into the broker's process before the broker: tells what it holds when its parent asks. */
import { setTimeout as delay } from 'node:timers/promises'
import { getHeapCodeStatistics } from 'node:v8'

export type Figures = {
  kind: 'figures'
  /** After garbage collection, buffers included. */
  heapBytes: number
  /** Of these, what was compiled. */
  codeBytes: number
  residentBytes: number
  /** What keeps the event loop alive, by type. */
  resources: Record<string, number>
}

const roundsAtMost = 30
const pauseMs = 100

process.on('message', (message: { kind?: string; collect?: boolean }) => {
  if (message.kind === 'figures?') void answer(message.collect === true)
})

async function answer(collect: boolean): Promise<void> {
  if (collect) await collectAll()
  const resources: Record<string, number> = {}
  for (const name of process.getActiveResourcesInfo()) resources[name] = (resources[name] ?? 0) + 1
  const figures: Figures = {
    kind: 'figures',
    heapBytes: heapBytes(),
    codeBytes: codeBytes(),
    residentBytes: process.memoryUsage.rss(),
    resources,
  }
  process.send!(figures)
}

/** What a finalizer lets go of, sockets and their buffers above all, is garbage for the next collection. */
async function collectAll(): Promise<void> {
  let least = Number.POSITIVE_INFINITY
  let unchanged = 0
  for (let round = 0; round < roundsAtMost && unchanged < 3; round++) {
    globalThis.gc!()
    await delay(pauseMs)
    const bytes = heapBytes()
    unchanged = bytes < least * 0.998 ? 0 : unchanged + 1
    least = Math.min(least, bytes)
  }
}

function heapBytes(): number {
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

function codeBytes(): number {
  const { code_and_metadata_size: machine, bytecode_and_metadata_size: bytecode } = getHeapCodeStatistics()
  return machine + bytecode
}
