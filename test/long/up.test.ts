import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { endpointsFile, readEndpoints } from '../../runtime/endpoints.ts'
import { fleetgate } from '../harness/stub-io.ts'
import { Up } from '../harness/up-process.ts'

const folder = mkdtempSync(join(tmpdir(), 'fleetgate-test-'))
after(() => rmSync(folder, { recursive: true, force: true }))

test('up treats a SIGHUP as a stop, and so a reader who closes its output', async () => {
  const dataDir = join(folder, 'hung-up')
  const gateway = new Up(dataDir)
  await gateway.says('Ctrl-C stops the gateway.')
  gateway.process.kill('SIGHUP')
  assert.deepEqual(await gateway.ended(), [0, null])
  assert.equal(existsSync(endpointsFile(dataDir)), false)

  const unread = new Up(dataDir)
  await unread.says('enroll is ready')
  unread.process.stdout!.destroy()
  assert.deepEqual(await unread.ended(), [0, null])
  assert.equal(existsSync(endpointsFile(dataDir)), false)
})

test('the services end with a supervisor that is killed, and the command line says that nothing answers', async () => {
  const dataDir = join(folder, 'second')
  const gateway = new Up(dataDir)
  await gateway.says('Ctrl-C stops the gateway.')
  const { est, mqtts } = readEndpoints(dataDir)
  gateway.process.kill('SIGKILL')
  for (const url of [est, mqtts]) while (await listens(url)) await delay(20)
  const { code, err } = await fleetgate(['status', '--data', dataDir])
  assert.equal(code, 1)
  assert.match(err, /refuses connections \(unavailable\); is it running\? start it: npx fleetgate up --data/)
})

function listens(url: string): Promise<boolean> {
  const { hostname, port } = new URL(url)
  return new Promise((resolve) => {
    const socket = connect(Number(port), hostname)
    socket.once('connect', () => resolve(true))
    socket.once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })
}
