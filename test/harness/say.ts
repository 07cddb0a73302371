import { writeSync } from 'node:fs'

/**
 * A line on the output of a process that its parent kills: at once, so that what was said was so before the kill. A parent
 * that is behind is waited for.
 */
export function say(line: string): void {
  for (;;) {
    try {
      writeSync(1, `${line}\n`)
      return
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error
    }
  }
}
