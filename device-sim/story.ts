/** The life of a fleet as a story: each step is an observation made from outside, over the public protocols alone. */
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { valuesOf } from '../pki/names.ts'
import { ConnectRefused, type Device } from './device.ts'
import { EstError } from './est-client.ts'
import { deviceWith, enrolledDevice, type FleetServer, Listener, Member } from './fleet.ts'
import { certificateOf, type Identity, renewIdentity } from './identity.ts'
import { expect, inParallel, within } from './observation.ts'
import { foreignIdentity, selfSignedIdentity } from './strangers.ts'

export type StepResult = {
  /** Stable, for scripts. */
  name: string
  title: string
  ok: boolean
  /** What was observed, or what was wrong. */
  detail: string
  ms: number
  measured: Record<string, number>
}

type Observed = { detail: string; measured?: Record<string, number> }

export type Story = AsyncDisposable & {
  steps: StepResult[]
  /** The fleet as it is now, for a live line. */
  now(): { connected: number; messages: number }
}

type Options = {
  server: FleetServer
  /** How many devices, 4 or more. */
  devices: number
  clock: () => Date
  onStep: (step: StepResult) => void
  onEnrolled: (count: number) => void
  /** How long something that is to happen is waited for; 10 s when absent. */
  patienceMs?: number
  /** Ends the story at once, wherever it is. */
  stop?: AbortSignal
}

/** The story was stopped before its end; the message is `while: ...` or `before: ...` and how far it had come. */
export class StoryStopped extends Error {
  override readonly name = 'StoryStopped'
}

const storyLength = 11

const reportEveryMs = 500
const silenceMs = 400

/**
 * Tells the story to its end; a step that fails does not stop the others, unless there is no fleet to tell it of.
 *
 * @throws StoryStopped when `stop` was aborted before the last step was observed; no device is left connected then
 */
export async function runStory(options: Options): Promise<Story> {
  const { server, devices, clock, onStep, onEnrolled, patienceMs = 10_000 } = options
  const fleet: Member[] = []
  const steps: StepResult[] = []
  let listener: Listener | undefined
  // Also what a step has left behind when it ended early is not to go on after the story.
  const end = new AbortController()
  const over = options.stop === undefined ? end.signal : AbortSignal.any([end.signal, options.stop])
  const stopped = new Promise<never>((_, reject) => over.addEventListener('abort', () => reject(new Error('stopped'))))
  stopped.catch(() => undefined)
  const unlessOver = (device: Device): Device => {
    if (over.aborted) device.drop()
    over.throwIfAborted()
    return device
  }

  const step = async (name: string, title: string, observe: () => Promise<Observed>): Promise<boolean> => {
    const stop = (when: string): never => {
      end.abort()
      for (const member of fleet) member.stopReporting()
      for (const device of [...fleet.map((member) => member.device), ...(listener ? [listener.device] : [])])
        device.drop()
      throw new StoryStopped(`${when}: ${title}; ${steps.length} of ${storyLength} steps were observed`)
    }
    if (over.aborted) stop('before')
    const startedAt = performance.now()
    const done = (ok: boolean, { detail, measured = {} }: Observed): boolean => {
      const result = { name, title, ok, detail, ms: Math.round(performance.now() - startedAt), measured }
      steps.push(result)
      onStep(result)
      return ok
    }
    try {
      return done(true, await Promise.race([observe(), stopped]))
    } catch (error) {
      if (over.aborted) stop('while')
      return done(false, { detail: (error as Error).message })
    }
  }

  const enrolled = await step('fleet-enrolled', 'the fleet enrolls over EST and connects', async () => {
    const startedAt = performance.now()
    const audience = unlessOver(await enrolledDevice(server, 'dashboard', 'service', { over }))
    listener = new Listener(audience)
    expect((await audience.subscribe('devices/+/telemetry/#')) === 1, 'the dashboard may not subscribe to telemetry')
    await inParallel(namesOf(devices), 4, async ({ id, profile }) => {
      over.throwIfAborted()
      const device = unlessOver(await enrolledDevice(server, id, profile, { onCommand: answer, over }))
      const [name] = valuesOf(certificateOf(device.identity!.certificatePem).subject, 'CN')
      expect(name === id, `the certificate of ${id} is for ${name}`)
      fleet.push(new Member(device))
      onEnrolled(fleet.length)
    })
    const each = (performance.now() - startedAt) / (devices + 1)
    return {
      detail: `${fleet.length} devices and a dashboard, ${each.toFixed(0)} ms each`,
      measured: { devices: fleet.length, msEach: Math.round(each) },
    }
  })

  if (enrolled) {
    fleet.sort((a, b) => a.id.localeCompare(b.id, 'en', { numeric: true }))
    const cast: Cast = { server, fleet, audience: listener!, patienceMs, over }
    const [first, second] = fleet as [Member, Member]
    await step('telemetry-flows', 'telemetry flows', () => telemetryFlows(cast))
    await step('foreign-topic-refused', "a device on another's topic is refused", () =>
      foreignTopic(cast, first, second),
    )
    await step('no-certificate-refused', 'a client without a certificate is refused', () =>
      strangerRefused(cast, undefined),
    )
    await step('self-signed-refused', 'a client with a self-signed certificate is refused', async () =>
      strangerRefused(cast, await selfSignedIdentity(first.id, clock())),
    )
    await step('foreign-ca-refused', 'a client with a certificate of a foreign CA is refused', async () =>
      strangerRefused(cast, await foreignIdentity(first.device.identity!.certificatePem, clock())),
    )
    await step('command-answered', 'a command is answered', () => commandAnswered(cast, second))
    await step('renewal-loses-nothing', 'a device renews, reconnects and loses nothing', () => renewal(cast, second))
    const stolen = fleet.find(({ id }) => id.startsWith('cam-'))!
    const others = fleet.filter((member) => member !== stolen)
    const lossesBefore = new Map(others.map((member) => [member, member.losses]))
    await step('stolen-camera-cut', 'a stolen camera is revoked and cut off', () => stolenCut(cast, stolen, others[0]!))
    await step('stolen-camera-stays-out', 'the stolen camera is refused on return', () => staysOut(cast, stolen))
    await step('others-unaffected', 'the rest of the fleet is unaffected', () => unaffected(cast, others, lossesBefore))
  }

  return {
    steps,
    now: () => ({
      connected: fleet.filter(({ device }) => device.isConnected).length,
      messages: listener?.total ?? 0,
    }),
    async [Symbol.asyncDispose]() {
      end.abort()
      for (const member of fleet) member.stopReporting()
      const all = [...fleet.map(({ device }) => device), ...(listener ? [listener.device] : [])]
      await Promise.all(all.map((device) => device.disconnect()))
    },
  }
}

type Cast = { server: FleetServer; fleet: Member[]; audience: Listener; patienceMs: number; over: AbortSignal }

async function telemetryFlows({ fleet, audience, patienceMs, over }: Cast): Promise<Observed> {
  const waiting = new Set(fleet.map(({ id }) => id))
  const all = audience.hears((id) => waiting.delete(id) && waiting.size === 0)
  for (const member of fleet) report(member)
  await within(patienceMs, `a message from each of ${fleet.length} devices`, all, over)
  return {
    detail: `the dashboard heard ${audience.total} messages from ${fleet.length} devices`,
    measured: { messages: audience.total },
  }
}

async function foreignTopic({ audience, patienceMs, over }: Cast, intruder: Member, victim: Member): Promise<Observed> {
  const forged: string[] = []
  const watch = (_: string, rest: string, payload: string): void => {
    if (rest === 'forged') forged.push(payload)
  }
  audience.on('heard', watch)
  const codes = await Promise.all([
    intruder.device.subscribe(`devices/${victim.id}/commands/#`),
    intruder.device.subscribe('devices/+/telemetry/#'),
    intruder.device.subscribe('#'),
  ])
  expect(
    codes.every((code) => code === 0x80),
    `SUBACK said ${codes.join(', ')} instead of 128 each time`,
  )
  intruder.device.publish(`devices/${victim.id}/telemetry/forged`, 'forged').catch(() => undefined)
  // What the intruder says afterwards on its own topic has arrived, so the forged message is not just late.
  await within(patienceMs, "the intruder's own next message", marker(audience, intruder.device), over)
  audience.off('heard', watch)
  expect(forged.length === 0, `${forged.length} message(s) on the topic of ${victim.id} came from ${intruder.id}`)
  return { detail: `${codes.length} subscriptions answered with SUBACK 128, 0 of 1 forged messages arrived` }
}

async function strangerRefused(
  { server, fleet, patienceMs, over }: Cast,
  identity: Identity | undefined,
): Promise<Observed> {
  const honest = fleet[0]!
  const stranger = deviceWith(server, honest.id, identity, { clientId: `${honest.id}:stranger` })
  const refusal = await within(patienceMs, 'an answer to the stranger', refusalOf(stranger), over)
  expect(refusal !== undefined, 'the broker let it in')
  expect(!/ECONNREFUSED|ETIMEDOUT/.test(refusal.message), `the broker could not be asked: ${refusal.message}`)
  // The same door opens for one of ours at this moment, so it was the certificate.
  const control = deviceWith(server, honest.id, honest.device.identity, { clientId: `${honest.id}:control` })
  await within(patienceMs, 'an enrolled device let in at the same time', control.connect(), over)
  await control.disconnect()
  return { detail: refusal.message }
}

async function commandAnswered({ audience, patienceMs, over }: Cast, member: Member): Promise<Observed> {
  const request = randomUUID()
  const startedAt = performance.now()
  const answered = audience.hears(
    (id, rest, payload) => id === member.id && rest === 'answers' && payload.includes(request),
  )
  await audience.device.publish(`devices/${member.id}/commands/identify`, request)
  await within(patienceMs, `an answer from ${member.id}`, answered, over)
  const ms = performance.now() - startedAt
  return { detail: `${member.id} answered "identify" after ${ms.toFixed(1)} ms`, measured: { answerMs: round(ms) } }
}

async function renewal({ server, audience, patienceMs, over }: Cast, member: Member): Promise<Observed> {
  const { device } = member
  const before = certificateOf(device.identity!.certificatePem).serial
  const heard = new Set<number>()
  const obeyed = new Set<number>()
  const acknowledged: Promise<void>[] = []
  const hear = (id: string, rest: string, payload: string): void => {
    if (id === member.id && rest === 'numbered') heard.add(Number(payload))
  }
  const obey = (topic: string, payload: string): void => {
    if (topic === `devices/${member.id}/commands/count`) obeyed.add(Number(payload))
  }
  audience.on('heard', hear)
  device.on('message', obey)
  let sent = 0
  const talk = setInterval(() => {
    const both = [
      device.publish(`devices/${member.id}/telemetry/numbered`, String(sent)),
      audience.device.publish(`devices/${member.id}/commands/count`, String(sent)),
    ]
    // Nobody waits for them where the step ends early.
    for (const acknowledgement of both) acknowledgement.catch(() => undefined)
    acknowledged.push(...both)
    sent++
  }, 5)
  let awayMs = 0
  try {
    await delay(100, undefined, { signal: over })
    const identity = await renewIdentity(server.est, device.identity!)
    const left = once(device, 'closed').then(() => performance.now())
    const back = device.useIdentity(identity).then(() => performance.now())
    awayMs = (await within(patienceMs, `${member.id} back with its new certificate`, back, over)) - (await left)
    await delay(100, undefined, { signal: over })
  } finally {
    clearInterval(talk)
  }
  await within(patienceMs, 'every message acknowledged', Promise.all(acknowledged), over)
  for (let waitedMs = 0; waitedMs < patienceMs && (heard.size < sent || obeyed.size < sent); waitedMs += 10)
    await delay(10, undefined, { signal: over })
  audience.off('heard', hear)
  device.off('message', obey)
  expect(heard.size === sent, `${sent - heard.size} of ${sent} messages were lost`)
  expect(obeyed.size === sent, `${sent - obeyed.size} of ${sent} commands were lost`)
  const after = certificateOf(device.identity!.certificatePem).serial
  expect(after !== before, `the certificate is still ${before}`)
  return {
    detail: `${sent} messages and ${sent} commands at QoS 1, none lost; away ${awayMs.toFixed(0)} ms; ${before.slice(0, 8)} -> ${after.slice(0, 8)}`,
    measured: { messages: sent, lost: 0, awayMs: round(awayMs) },
  }
}

async function stolenCut(cast: Cast, stolen: Member, witness: Member): Promise<Observed> {
  // The thief runs a copy of the camera beside the camera itself, and both talk as fast as they can.
  const clientId = `${stolen.id}:copy`
  const copy = new Member(deviceWith(cast.server, stolen.id, stolen.device.identity, { clientId }))
  await copy.device.connect()
  try {
    return await cutBoth(cast, stolen, copy, witness)
  } finally {
    stolen.stopReporting()
    copy.stopReporting()
    copy.device.drop()
  }
}

async function cutBoth(cast: Cast, stolen: Member, copy: Member, witness: Member): Promise<Observed> {
  const { server, audience, patienceMs, over } = cast
  const topic = `devices/${stolen.id}/telemetry/stolen`
  stolen.report(5, topic, (n) => `original ${n}`)
  copy.report(5, topic, (n) => `copy ${n}`)
  await within(
    patienceMs,
    'messages of the stolen camera before the revocation',
    Promise.all(
      ['original', 'copy'].map((who) =>
        audience.hears((_, rest, payload) => rest === 'stolen' && payload.startsWith(who)),
      ),
    ),
    over,
  )
  const startedAt = performance.now()
  const cut = Promise.all([once(stolen.device, 'closed'), once(copy.device, 'closed')]).then(
    () => performance.now() - startedAt,
  )
  const refused = Promise.all([once(stolen.device, 'refused'), once(copy.device, 'refused')])
  const [receipt, cutMs] = await Promise.all([
    server.operator.revoke(stolen.id),
    within(patienceMs, 'both connections of the stolen camera closed', cut, over),
  ])
  expect(receipt.inForce, 'the revocation was not confirmed by every broker')
  // Whatever the broker took before the cut is delivered before this.
  await within(patienceMs, "a witness's message", marker(audience, witness.device), over)
  const before = audience.count(stolen.id)
  await within(patienceMs, 'the camera coming back and being refused', refused, over)
  await delay(silenceMs, undefined, { signal: over })
  const after = audience.count(stolen.id) - before
  expect(after === 0, `${after} messages of the stolen camera arrived after it was cut off`)
  const confirmed =
    receipt.confirmedMs === undefined ? '' : ` (broker confirmed ${receipt.confirmedMs.toFixed(1)} ms after the commit)`
  return {
    detail: `2 connections cut ${cutMs.toFixed(0)} ms after the command${confirmed}, ${before} messages before, 0 after`,
    measured: {
      cutMs: round(cutMs),
      messagesAfter: after,
      ...(receipt.confirmedMs === undefined ? {} : { confirmedMs: round(receipt.confirmedMs) }),
    },
  }
}

async function staysOut({ server }: Cast, stolen: Member): Promise<Observed> {
  const identity = stolen.device.identity!
  const codes: number[] = []
  for (const clientId of [stolen.id, `${stolen.id}:again`]) {
    const refusal = await refusalOf(deviceWith(server, stolen.id, identity, { clientId }))
    expect(refusal !== undefined, `${clientId} was let in`)
    if (!(refusal instanceof ConnectRefused)) throw refusal
    codes.push(refusal.returnCode)
  }
  expect(
    codes.every((code) => code === 5),
    `CONNACK said ${codes.join(', ')} instead of 5`,
  )
  const refusal = await renewIdentity(server.est, identity).then(
    () => expect(false, 'EST gave it a new certificate'),
    (error: unknown) => error,
  )
  if (!(refusal instanceof EstError)) throw refusal
  expect([401, 403].includes(refusal.status), `EST answered ${refusal.status}: ${refusal.sentence}`)
  return { detail: `CONNACK 5; EST ${refusal.status}: ${refusal.sentence}`, measured: { estStatus: refusal.status } }
}

async function unaffected(
  { audience, patienceMs, over }: Cast,
  others: Member[],
  lossesBefore: Map<Member, number>,
): Promise<Observed> {
  const disturbed = others.filter((member) => !member.device.isConnected || member.losses !== lossesBefore.get(member))
  expect(disturbed.length === 0, `disturbed: ${disturbed.map(({ id }) => id).join(', ')}`)
  const waiting = new Set(others.map(({ id }) => id))
  await within(
    patienceMs,
    'a new message from each of the others',
    audience.hears((id) => waiting.delete(id) && waiting.size === 0),
    over,
  )
  return { detail: `${others.length} of ${others.length} kept their connection and go on reporting` }
}

const report = (member: Member): void =>
  member.report(reportEveryMs, `devices/${member.id}/telemetry/temperature`, (n) =>
    JSON.stringify({ reading: n, celsius: round(20 + 3 * Math.sin(n / 10)) }),
  )

/** A message that can be recognised: published now, and resolved when it is heard. */
async function marker(audience: Listener, device: Device): Promise<void> {
  const text = randomUUID()
  const heard = audience.hears((id, rest, payload) => id === device.id && rest === 'marker' && payload === text)
  await device.publish(`devices/${device.id}/telemetry/marker`, text)
  await heard
}

/** @returns how it was kept out, or undefined when it was let in */
async function refusalOf(device: Device): Promise<Error | undefined> {
  try {
    await device.connect()
  } catch (error) {
    return error as Error
  }
  device.drop()
  return undefined
}

const namesOf = (count: number): { id: string; profile: string }[] =>
  Array.from({ length: count }, (_, at) =>
    at % 2 === 0 ? { id: `cam-${at / 2 + 1}`, profile: 'camera' } : { id: `sensor-${(at + 1) / 2}`, profile: 'sensor' },
  )

const answer = (name: string, payload: string): string =>
  JSON.stringify({ command: name, request: payload.slice(0, 200), result: 'done' })

const round = (value: number): number => Math.round(value * 10) / 10
