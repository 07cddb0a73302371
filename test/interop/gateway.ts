/** The real gateway as an operator starts it, and real programs run against it. */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join, resolve } from 'node:path'
import { endsWithTest } from '../harness/ends-with-test.ts'

export const root = dirname(dirname(import.meta.dirname))
const bin = join(root, 'bin', 'fleetgate.js')

/** @returns the reason for node:test. @throws Error where INTEROP=required says that nothing may be skipped */
export function reasonToSkip(reason: string): string {
  if (process.env.INTEROP === 'required') throw new Error(`INTEROP=required: ${reason}`)
  return reason
}

/** `{ skip }` for node:test, by programs of the PATH and files. */
export function needs(...programs: string[]): { skip: string | false } {
  const folders = (process.env.PATH ?? '').split(delimiter)
  const missing = programs.filter((program) => !folders.some((folder) => existsSync(resolve(folder, program))))
  return { skip: missing.length > 0 && reasonToSkip(`${missing.join(', ')} not installed`) }
}

/** How long a program may take before something is wrong with it, on a busy machine too. */
const patienceMs = 120_000

export type Outcome = { code: number | null; out: string; err: string }

export class Gateway implements AsyncDisposable {
  readonly folder: string
  readonly #process: ChildProcess
  readonly #ended: Promise<unknown>
  readonly endpoints: Record<
    'est' | 'mqtts' | 'rootCertificate' | 'operatorCertificate' | 'operatorKey' | 'rootFingerprint',
    string
  > & { listeners: Record<string, string>; status?: string }

  private constructor(folder: string, child: ChildProcess, ended: Promise<unknown>) {
    this.folder = folder
    this.#process = child
    this.#ended = ended
    this.endpoints = JSON.parse(readFileSync(join(folder, 'data', 'endpoints.json'), 'utf8'))
  }

  /** Runs `fleetgate up` in a folder of its own, `./data` as data folder. */
  static async start(ports: 'auto' | 'configured' = 'auto', yaml = ''): Promise<Gateway> {
    const folder = mkdtempSync(join(tmpdir(), 'fleetgate-interop-'))
    if (yaml !== '') writeFileSync(join(folder, 'fleetgate.yaml'), yaml)
    const child = endsWithTest(
      spawn(process.execPath, [bin, 'up', '--ports', ports], { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] }),
    )
    const ended = once(child, 'close')
    let text = ''
    await new Promise<void>((resolve, reject) => {
      const listen = (chunk: Buffer): void => {
        text += chunk
        if (text.includes('Ctrl-C stops the gateway')) resolve()
      }
      child.stdout!.on('data', listen)
      child.stderr!.on('data', listen)
      ended.then(([code, signal]) => reject(new Error(`up ended with ${code ?? signal}: ${text}`)), reject)
    }).catch((error: unknown) => {
      rmSync(folder, { recursive: true, force: true })
      throw error
    })
    return new Gateway(folder, child, ended)
  }

  get estUrl(): string {
    return `${this.endpoints.est}/.well-known/est`
  }

  path(name: string): string {
    return join(this.folder, name)
  }

  run(program: string, ...args: string[]): Promise<Outcome> {
    return new Promise((resolve) => {
      const child = execFile(
        program,
        args,
        { cwd: this.folder, timeout: patienceMs, encoding: 'utf8' },
        (_, out, err) =>
          resolve({ code: child.exitCode, out, err: child.killed ? `${err} killed after ${patienceMs} ms` : err }),
      )
    })
  }

  /** As `run`, and throws what the program said when it failed. */
  async mustRun(program: string, ...args: string[]): Promise<string> {
    const { code, out, err } = await this.run(program, ...args)
    if (code !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${code}: ${out}${err}`)
    return out
  }

  fleetgate(...args: string[]): Promise<Outcome> {
    return this.run(process.execPath, bin, ...args)
  }

  async token(id: string, profile: string): Promise<string> {
    return (
      await this.mustRun(process.execPath, bin, 'token', 'create', '--device', id, '--profile', profile, '--quiet')
    ).trim()
  }

  /** Key and request `ID.key`, `ID.csr` (base64) with openssl. */
  async makeRequest(id: string, key = id): Promise<void> {
    const keyFile = this.path(`${key}.key`)
    if (!existsSync(keyFile)) await this.mustRun('openssl', 'genpkey', ...p256('-algorithm', 'EC'), '-out', keyFile)
    const request = ['-new', '-key', keyFile, '-subj', `/CN=${id}`, '-outform', 'DER', '-out', `${id}.der`]
    await this.mustRun('openssl', 'req', ...request)
    writeFileSync(this.path(`${id}.csr`), readFileSync(this.path(`${id}.der`)).toString('base64'))
  }

  /** Key and certificate `NAME.key`, `NAME.crt` that vouch for themselves. */
  async makeSelfSigned(name: string, id: string): Promise<void> {
    const subject = ['-nodes', '-subj', `/CN=${id}`, '-keyout', `${name}.key`, '-out', `${name}.crt`]
    await this.mustRun('openssl', 'req', '-x509', ...p256('-newkey', 'ec'), ...subject)
  }

  curl(...args: string[]): Promise<Outcome> {
    return this.run('curl', '-sS', '-i', '--cacert', this.endpoints.rootCertificate, ...args)
  }

  /** A request in `file` to an EST operation. */
  post(operation: string, file: string, ...args: string[]): Promise<Outcome> {
    const body = ['-H', 'Content-Type: application/pkcs10', '--data-binary', `@${file}`]
    return this.curl(...args, ...body, `${this.estUrl}/${operation}`)
  }

  /** With the certificate that `ID.crt` is, for the request in `ID.csr`. */
  reenroll(id: string, ...args: string[]): Promise<Outcome> {
    return this.post('simplereenroll', `${id}.csr`, '--cert', `${id}.crt`, '--key', `${id}.key`, ...args)
  }

  /** Body of a certs-only answer that curl wrote with its headers -> `ID.crt`. */
  async unwrap(id: string, answer: string): Promise<string> {
    writeFileSync(this.path(`${id}.p7`), Buffer.from(answer.slice(answer.indexOf('\r\n\r\n') + 4), 'base64'))
    return this.mustRun('openssl', 'pkcs7', '-inform', 'DER', '-in', `${id}.p7`, '-print_certs', '-out', `${id}.crt`)
  }

  /** Enrolls with openssl and curl: leaves `ID.key` and `ID.crt`. */
  async enroll(id: string, profile: string): Promise<void> {
    const token = await this.token(id, profile)
    await this.makeRequest(id)
    const { out } = await this.post('simpleenroll', `${id}.csr`, '-u', `${id}:${token}`)
    await this.unwrap(id, out)
  }

  /** What connects a mosquitto client: to the gateway, with the certificate `NAME.crt` or with none. */
  #mosquitto(name: string | undefined, id: string): string[] {
    const { hostname, port } = new URL(this.endpoints.mqtts)
    const credential = name === undefined ? [] : ['--cert', `${name}.crt`, '--key', `${name}.key`]
    return ['--cafile', this.endpoints.rootCertificate, '-h', hostname, '-p', port, ...credential, '-i', id]
  }

  /** `mosquitto_pub` at QoS 1, or as `args` have it. */
  publish(id: string, topic: string, message: string, ...args: string[]): Promise<Outcome> {
    return this.publishAs(id, id, topic, message, ...args)
  }

  publishAs(name: string | undefined, id: string, topic: string, message: string, ...args: string[]): Promise<Outcome> {
    return this.run('mosquitto_pub', ...this.#mosquitto(name, id), '-q', '1', '-t', topic, '-m', message, ...args)
  }

  /** `mosquitto_sub` at QoS 1, or as `args` have it; not with `-d`, which is there. */
  subscriber(id: string, filter: string, ...args: string[]): Running {
    return this.start('mosquitto_sub', ...this.#mosquitto(id, id), '-d', '-q', '1', '-t', filter, ...args)
  }

  /** The same, once it has its subscription. */
  async subscribe(id: string, filter: string, ...args: string[]): Promise<Running> {
    const running = this.subscriber(id, filter, ...args)
    await running.says(/Subscribed \(mid: 1\): /)
    return running
  }

  /** A program that runs on; `says` waits for words on its output, which a pipe would make it hold back. */
  start(program: string, ...args: string[]): Running {
    return new Running(
      spawn('stdbuf', ['-oL', program, ...args], {
        timeout: patienceMs,
        cwd: this.folder,
        stdio: ['ignore', 'pipe', 'pipe'],
      }),
    )
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill('SIGTERM')
    await this.#ended
    rmSync(this.folder, { recursive: true, force: true })
    if (this.#process.exitCode !== 0)
      throw new Error(`the gateway ended with ${this.#process.exitCode ?? this.#process.signalCode}`)
  }
}

/** For openssl: a key on the curve P-256. */
const p256 = (...algorithm: string[]): string[] => [...algorithm, '-pkeyopt', 'ec_paramgen_curve:P-256']

export class Running implements AsyncDisposable {
  readonly #process: ChildProcess
  readonly #ended: Promise<unknown>
  #hasEnded = false
  #text = ''
  #heard: () => void = () => undefined

  constructor(child: ChildProcess) {
    this.#process = child
    this.#ended = once(child, 'close').then(() => {
      this.#hasEnded = true
      this.#heard()
    })
    for (const stream of [child.stdout!, child.stderr!]) {
      stream.setEncoding('utf8').on('data', (chunk: string) => {
        this.#text += chunk
        this.#heard()
      })
    }
  }

  async says(words: RegExp): Promise<string> {
    while (!words.test(this.#text)) {
      if (this.#hasEnded) {
        const { exitCode, signalCode } = this.#process
        throw new Error(`ended with ${exitCode ?? signalCode} without ${words}: ${this.#text}`)
      }
      await new Promise<void>((resolve) => {
        this.#heard = resolve
      })
    }
    return this.#text
  }

  async ended(): Promise<Outcome> {
    await this.#ended
    return { code: this.#process.exitCode, out: this.#text, err: '' }
  }

  /** Without a chance to say goodbye. */
  async kill(): Promise<void> {
    this.#process.kill('SIGKILL')
    await this.#ended
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill()
    await this.#ended
  }
}
