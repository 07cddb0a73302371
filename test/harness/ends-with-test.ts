import type { ChildProcess } from 'node:child_process'
import { after } from 'node:test'

/** A test that fails before it stops its process would leave it running, and with it the test's own process. */
export function endsWithTest<T extends ChildProcess>(child: T): T {
  after(() => {
    child.kill('SIGKILL')
  })
  return child
}
