import { copyFileSync, mkdtempSync, openSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { SingleBar } from 'cli-progress'
import { EstClient, fetchTrust } from '../device-sim/est-client.ts'
import type { Operator } from '../device-sim/fleet.ts'
import { runStory, type StepResult } from '../device-sim/story.ts'
import { loadConfig } from '../runtime/config.ts'
import { FleetError } from '../runtime/errors.ts'
import { AdminClient } from './admin-client.ts'
import { aborted, type Io } from './io.ts'
import { json, styled, visible } from './output.ts'
import { type Gateway, startGateway } from './supervisor.ts'

type Options = { devices: number; once?: boolean; output: 'table' | 'json' }

const revocationWaitMs = 10_000

export async function demo(options: Options, io: Io): Promise<void> {
  const stop = io.untilSignal()
  const folder = mkdtempSync(join(tmpdir(), 'fleetgate-demo-'))
  const log = join(folder, 'gateway.log')
  let gateway: Gateway | undefined
  try {
    gateway = await startGateway(
      {
        // Nothing of the operator's own configuration: the story is told with the defaults, on free loopback ports.
        config: loadConfig({ env: {}, flags: { 'enroll.est': '127.0.0.1:0', 'broker.listen': '127.0.0.1:0' } }),
        configFile: undefined,
        dataDir: join(folder, 'data'),
        ports: 'auto',
        env: Object.fromEntries(Object.entries(io.env).filter(([name]) => !name.startsWith('FLEETGATE_'))),
        output: openSync(log, 'a'),
        notify: () => undefined,
      },
      stop,
    )
    await tell(gateway, options, io, stop)
  } catch (error) {
    if (stop.aborted) return
    const kept = `${folder}.log`
    copyFileSync(log, kept)
    throw new FleetError('internal', `${(error as Error).message}; the gateway's log is ${kept}`, { cause: error })
  } finally {
    await gateway?.stop()
    rmSync(folder, { recursive: true, force: true })
  }
}

async function tell(gateway: Gateway, { devices, once, output }: Options, io: Io, stop: AbortSignal): Promise<void> {
  const { endpoints } = gateway
  using client = new AdminClient(endpoints, '')
  const est = new EstClient(endpoints.est, await fetchTrust(endpoints.est, endpoints.rootFingerprint))
  const bar = progressBar(io, devices)
  await using story = await runStory({
    server: { est, mqtts: endpoints.mqtts, operator: operatorOf(client) },
    devices,
    clock: () => new Date(),
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

function progressBar(io: Io, total: number): SingleBar | undefined {
  if (!io.isTerminal) return undefined
  const bar = new SingleBar({ format: '  enrolling {bar} {value}/{total}', clearOnComplete: true, hideCursor: true })
  bar.start(total, 0)
  return bar
}

const line = ({ ok, title, detail, ms }: StepResult, colour: boolean): string => {
  const mark = ok ? styled('green', '✔', colour) : styled('red', '✘', colour)
  return `${mark} ${title}: ${styled('dim', visible(detail), colour)} ${styled('dim', `[${ms} ms]`, colour)}\n`
}
