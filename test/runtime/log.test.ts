import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { stripVTControlCharacters } from 'node:util'

const root = dirname(dirname(import.meta.dirname))

/** Runs statements that use `log` in a process of its own, because lines go to standard error. */
const run = (statements: string, level: string, stderr: 'pipe' | number, isTerminal = false) => {
  const script = `${isTerminal ? 'process.stderr.isTTY = true\n' : ''}import { createLog } from ${JSON.stringify(join(root, 'runtime/log.ts'))}
const log = createLog('enroll', '${level}')
${statements}`
  return spawnSync(process.execPath, ['--expose-gc', '--input-type=module-typescript', '-e', script], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', stderr],
  })
}

function linesOf(statements: string, level = 'debug'): Record<string, unknown>[] {
  const { stderr, stdout, status } = run(statements, level, 'pipe')
  assert.equal(status, 0, stderr)
  assert.equal(stdout, '')
  return stderr
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line))
}

test('the time of a line is that of the clock, to the millisecond, wherever in a second it is', () => {
  const times = [
    '2026-03-01T09:00:00.000Z',
    '2026-03-01T09:00:00.007Z',
    '2026-03-01T09:00:59.999Z',
    '2026-02-01T00:00:00.070Z',
  ]
  const lines = linesOf(`for (const time of ${JSON.stringify(times)}) {
  Date.now = () => Date.parse(time)
  log.info({ event: 'tested' }, 'tested')
}`)
  assert.deepEqual(
    lines.map(({ time }) => time),
    times,
  )
})

test('a line is JSON on standard error, with the service, the time and the event', () => {
  const [line] = linesOf(
    "log.warn({ event: 'connection.refused', reason: 'certificate_revoked' }, 'connection refused')",
  )
  const { time, ...rest } = line!
  assert.match(String(time), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
  assert.deepEqual(rest, {
    level: 40,
    service: 'enroll',
    event: 'connection.refused',
    reason: 'certificate_revoked',
    msg: 'connection refused',
  })
})

test('a process whose log is on a disk that is full goes on, and remembers no more lines than there is room for', () => {
  const full = openSync('/dev/full', 'w')
  const { stdout, status } = run(
    `const before = process.memoryUsage().heapUsed
    for (let n = 0; n < 10_000; n++) log.info({ text: 'x'.repeat(1_000) }, 'a line')
    gc()
    console.log(process.memoryUsage().heapUsed - before < 5_000_000)`,
    'info',
    full,
  )
  closeSync(full)
  assert.deepEqual([status, stdout], [0, 'true\n'])
})

test('lines below the level are not written', () => {
  assert.deepEqual(
    linesOf("log.debug('no'); log.info('yes')", 'info').map((line) => line.msg),
    ['yes'],
  )
  assert.deepEqual(linesOf("log.error('no')", 'silent'), [])
})

test('what a terminal would obey stands escaped in a line, and means the same', () => {
  const topic = 'a\u009b2Jb\u202ec\u007fd\u2028e\u{e0041}f\u001b'
  const statements = `log.info({ topic: ${JSON.stringify(topic)} }, 'denied')`
  const { stderr } = run(statements, 'info', 'pipe')
  assert.match(stderr, /^[ -~]+\n$/)
  assert.equal(JSON.parse(stderr).topic, topic)
})

test('a terminal is given nothing that it would obey, out of the stack of an error either', () => {
  const text = 'a\u001b]0;b\u0007\u009b2J\r\\u001b\\n\u0008\tc'
  const { stderr } = run(
    `const error = new Error(${JSON.stringify(text)})
    createLog('enroll', 'info').error({ text: ${JSON.stringify(text)}, err: error, deep: [{ error }] }, 'failed')`,
    'info',
    'pipe',
    true,
  )
  const shown = stripVTControlCharacters(stderr)
  assert.match(shown, /Error: a<U\+001B>\]0;b<U\+0007><U\+009B>2J<U\+000D>\\u001b\\n<U\+0008>\tc\n/)
  assert.match(shown, /^[ -~\t\n]+$/)
  assert.match(stderr.replaceAll(/\u001b\[\d+m/g, ''), /^[ -~\t\n]+$/, 'colours, and no more')
})

test('secrets are not written, wherever in a line they are', () => {
  const lines = linesOf(`
    const secrets = { password: 'S3CRET', token: 'S3CRET', authorization: 'S3CRET', passphrase: 'S3CRET', privateKey: 'S3CRET', challengePassword: 'S3CRET' }
    log.info(secrets, 'a')
    log.info({ headers: secrets }, 'b')
    log.info({ err: Object.assign(new Error('x'), { context: secrets }) }, 'c')
    log.child(secrets).info('d')
    log.child({ requestId: 'kept' }).info({ request: { headers: secrets } }, 'e')
    log.child({ request: { headers: secrets } }).info('f')
    log.info({ all: [{ of: { them: { here: secrets } } }] }, 'g')
    log.info({ err: new Error('x', { cause: Object.assign(new Error('y'), { context: { deep: secrets } }) }) }, 'h')
    log.info({ token: { of: ['S3CRET'] }, password: 7777 }, 'i')
    log.info({ text: '"token":"said"', at: 1.5, none: null, list: [1, 'a'] }, 'j')`)
  assert.deepEqual(
    lines.map((line) => line.msg),
    ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j'],
  )
  assert.doesNotMatch(JSON.stringify(lines), /S3CRET|7777/)
  assert.equal(lines[0]?.token, '[redacted]')
  assert.equal(lines[4]?.requestId, 'kept')
  const { text, at, none, list } = lines[9]!
  assert.deepEqual({ text, at, none, list }, { text: '"token":"said"', at: 1.5, none: null, list: [1, 'a'] })
})

test('an error is written with its cause', () => {
  const [line] = linesOf("log.error({ err: new Error('above', { cause: new Error('below') }) }, 'failed')")
  assert.match(JSON.stringify(line), /above.*below/)
})
