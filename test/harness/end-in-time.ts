/**
 * Preloaded by the test runner into the process of each file. What a test that failed has left open, a server or a timer, would
 * keep the process for ever. `--test-force-exit` of Node is no way: it ends a process before all that it has to report has gone out.
 */
import { after } from 'node:test'

const graceMs = 10_000

if (process.env.NODE_TEST_CONTEXT !== undefined) after(() => void setTimeout(() => process.exit(), graceMs).unref())
