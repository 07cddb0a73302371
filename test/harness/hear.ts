import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'

/** What a process says next on its output. @throws Error where it ends instead, which a test would wait for without end */
export async function hear(child: ChildProcess): Promise<string> {
  const ended = once(child, 'close').then(([code, signal]) => {
    throw new Error(`it ended with ${code ?? signal} and said no more`)
  })
  const [chunk] = await Promise.race([once(child.stdout!, 'data'), ended])
  return String(chunk)
}
