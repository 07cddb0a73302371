import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { after } from 'node:test'

/** A test that fails before it stops its process would leave it running, and with it the test's own process. */
export function endsWithTest<T extends ChildProcess>(child: T): T {
  after(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  })
  return child
}
