/** A service for lifecycle.test.ts; its argument says how it behaves. */
import { FleetError } from '../../runtime/errors.ts'
import { runService } from '../../runtime/lifecycle.ts'

const behaviour = process.argv[2]
const work = setInterval(() => undefined, 1_000)

await runService('example', async () => {
  if (behaviour === 'misconfigured') throw new FleetError('config_invalid', 'broker.listen: host:port is wanted')
  if (behaviour === 'broken') throw new TypeError('not a function')
  if (behaviour === 'slow-start') {
    process.stderr.write('starting\n')
    await new Promise((resolve) => process.once('SIGTERM', resolve))
  }
  return {
    ...(behaviour === 'changeable' ? { reload: async () => void process.stderr.write('reloaded\n') } : {}),
    endpoints: { est: 'https://localhost:1' },
    async [Symbol.asyncDispose]() {
      clearInterval(work)
      process.stderr.write('drained\n')
      if (behaviour === 'broken-end') throw new Error('cannot close')
    },
  }
})
