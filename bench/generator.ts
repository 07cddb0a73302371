/** The load generator, a process of its own that bench/harness.ts starts and speaks to over IPC. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Answer, Fleet, type Outcome, type Request } from './load.ts'
import { compile, FleetInC } from './load-in-c.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-load-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
const program = compile(folder)
if (program === undefined) {
  console.log('no C compiler with libssl: the load comes from JavaScript, and does not always keep a broker busy\n')
}

const fleets = new Map<string, Fleet | FleetInC>()
const tell = (answer: Answer): boolean => process.connected && process.send!(answer)
const say = (done: Outcome | undefined): boolean => tell({ done })
const fail = (error: unknown): boolean => tell({ failed: String(error) })

async function serve(request: Request): Promise<Outcome | undefined> {
  if ('open' in request) {
    const { open } = request
    const isLight = program !== undefined && !open.isPaced
    const fleet = isLight ? new FleetInC(open, program) : new Fleet(open, fail)
    fleets.set(open.name, fleet)
    await fleet.open()
    return undefined
  }
  if ('run' in request) return fleets.get(request.run.name)!.run(request.run)
  fleets.get(request.close)?.close()
  fleets.delete(request.close)
  return undefined
}

process.on('message', (request: Request) => void serve(request).then(say, fail))
process.on('disconnect', () => {
  for (const fleet of fleets.values()) fleet.close()
  process.exit()
})
