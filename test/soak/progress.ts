/** How far a soak is: a bar where somebody watches, a line now and then where it is a log. */
import { SingleBar } from 'cli-progress'

export type Progress = {
  /** @param done of `total`, in any unit */
  show(done: number, text: string): void
  end(): void
}

const lineMs = 10_000

export function progressOf(title: string, total: number): Progress {
  if (process.stderr.isTTY) {
    const bar = new SingleBar({ format: `${title.padEnd(12)} {bar} {text}`, clearOnComplete: true, hideCursor: true })
    bar.start(total, 0, { text: '' })
    return {
      show: (done, text) => bar.update(Math.min(done, total), { text }),
      end: () => bar.stop(),
    }
  }
  let last = performance.now()
  return {
    show(_done, text) {
      if (performance.now() - last < lineMs) return
      last = performance.now()
      console.log(`${title.padEnd(12)} ${text}`)
    },
    end() {},
  }
}
