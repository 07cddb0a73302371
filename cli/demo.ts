import { closeSync, copyFileSync, mkdtempSync, openSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { EstClient, fetchTrust } from '../device-sim/est-client.ts'
import type { Operator } from '../device-sim/fleet.ts'
import { runStory, type StepResult, StoryStopped } from '../device-sim/story.ts'
import { loadConfig } from '../runtime/config.ts'
import { FleetError } from '../runtime/errors.ts'
import { AdminClient } from './admin-client.ts'
import type { ServiceEvent } from './child-service.ts'
import { aborted, Interrupted, type Io } from './io.ts'
import { json, styled, visible } from './output.ts'
import { progressBar } from './progress.ts'
import { type Gateway, startGateway } from './supervisor.ts'

type Options = { devices: number; once?: boolean; output: 'table' | 'json' }
/** What may end the story before its end: its caller, or the gateway. */
type Ends = { stop: AbortSignal; died: AbortSignal }

const revocationWaitMs = 10_000

export async function demo(options: Options, io: Io): Promise<void> {
  const kill = new AbortController()
  const stop = io.untilSignal(() => kill.abort())
  const died = new AbortController()
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-demo-'))
  // It holds the keys of a CA, so it goes with the process however that ends.
  const remove = (): void => rmSync(folder, { recursive: true, force: true, maxRetries: 3 })
  process.once('exit', remove)
  const log = join(folder, 'gateway.log')
  const output = openSync(log, 'a')
  let gateway: Gateway | undefined
  if (io.isTerminal) io.err('starting a gateway ...\n')
  try {
    gateway = await startGateway(
      {
        // Nothing of the operator's own configuration: the story is told with the defaults, on free loopback ports.
        config: loadConfig({ env: {}, flags: { 'enroll.est': '127.0.0.1:0', 'broker.listen': '127.0.0.1:0' } }),
        configFile: undefined,
        dataDir: join(folder, 'data'),
        ports: 'auto',
        env: Object.fromEntries(Object.entries(io.env).filter(([name]) => !name.startsWith('FLEETGATE_'))),
        output,
        kill: kill.signal,
        notify: (event: ServiceEvent) => {
          if (event.kind === 'ended') died.abort(`${event.name} ended unexpectedly (${event.how})`)
        },
      },
      stop,
    )
    await tell(gateway, options, io, { stop, died: died.signal })
  } catch (error) {
    const where =
      error instanceof StoryStopped ? error.message : gateway === undefined ? 'while: starting a gateway' : undefined
    if (stop.aborted) throw new Interrupted(where ?? 'while: ending the story', stop)
    const reason = died.signal.aborted ? died.signal.reason : (error as Error).message
    const kept = `${folder}.log`
    copyFileSync(log, kept)
    const what = where === undefined ? reason : `${where}: ${reason}`
    throw new FleetError('internal', `${what}; its log is ${kept}`, { cause: error })
  } finally {
    await gateway?.stop()
    closeSync(output)
    remove()
    process.off('exit', remove)
  }
}

async function tell(gateway: Gateway, { devices, once, output }: Options, io: Io, ends: Ends): Promise<void> {
  const { stop } = ends
  const { endpoints } = gateway
  using client = new AdminClient(endpoints, '')
  const trust = await fetchTrust(endpoints.est, endpoints.rootFingerprint).catch((cause: Error) => {
    throw new StoryStopped(`before: the fleet enrolls over EST and connects (${cause.message})`, { cause })
  })
  const est = new EstClient(endpoints.est, trust)
  const bar = progressBar(io, 'enrolling', devices)
  using _ = { [Symbol.dispose]: () => bar?.stop() }
  await using story = await runStory({
    server: { est, mqtts: endpoints.mqtts, operator: operatorOf(client) },
    devices,
    clock: () => new Date(),
    stop: AbortSignal.any([stop, ends.died]),
    onEnrolled: (count) => bar?.update(count),
    onStep: (step) => {
      bar?.stop()
      if (output === 'table') io.out(line(step, io.colour))
    },
  })
  const failed = story.steps.filter(({ ok }) => !ok).map(({ name }) => name)
  if (output === 'json') io.out(json({ ok: failed.length === 0, steps: story.steps }))
  if (failed.length > 0) throw new FleetError('internal', `did not hold: ${failed.join(', ')}`)
  if (once === true || stop.aborted) return
  if (output === 'table') io.out('\nThe fleet goes on; Ctrl-C ends it.\n')
  const live = setInterval(() => {
    const { connected, messages } = story.now()
    if (io.isTerminal) io.err(`\r${connected} devices connected, ${messages} messages heard `)
  }, 500)
  await aborted(stop)
  clearInterval(live)
  if (io.isTerminal) io.err('\n')
}

const operatorOf = (client: AdminClient): Operator => ({
  createToken: async (deviceId, profile) => (await client.createToken({ deviceId, profile })).token,
  async revoke(deviceId) {
    const { inForce, brokers } = await client.revokeDevice(deviceId, 'keyCompromise', revocationWaitMs)
    return { inForce, confirmedMs: brokers[0]?.confirmedMs }
  },
})

const line = ({ ok, title, detail, ms }: StepResult, colour: boolean): string => {
  const mark = ok ? styled('green', '✔', colour) : styled('red', '✘', colour)
  return `${mark} ${title}: ${styled('dim', visible(detail), colour)} ${styled('dim', `[${ms} ms]`, colour)}\n`
}
