import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import type { IncomingMessage } from 'node:http'
import { Agent, request } from 'node:https'
import { join } from 'node:path'
import { z } from 'zod'
import type { pageOf } from '../contract/admin-api.ts'
import { type ProblemCode, problems } from '../contract/problems.ts'
import { commandLine, type Endpoints } from '../runtime/endpoints.ts'
import { FleetError, isFleetError, systemFault } from '../runtime/errors.ts'
import { readPassphrase, readPrivateFile } from '../runtime/files.ts'
import { isOfGateway } from './access-folder.ts'

// The admin listener may be reached by any address; what its certificate proves is this name.
const servername = 'enroll.fleetgate.internal'
const answerTimeoutMs = 15_000
const maxAnswerBytes = 64 * 1024 * 1024
const pageSize = 1_000

export type Query = Record<string, string | number | readonly string[] | undefined>
export type Call = {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  path: string
  query?: Query
  body?: unknown
  /** The ETag at which alone it is to be done. */
  ifMatch?: string | undefined
  waitMs?: number
  signal?: AbortSignal | undefined
}
type Answer = { status: number; text: string; tag?: string | undefined }

/**
 * Calls to the admin API, with an operator's certificate or an API token. They throw FleetError: the gateway's own problem with its code and detail
 * (`context.refused` is true when it answered 4xx), or `unavailable` when there is no answer.
 */
export class AdminConnection implements Disposable {
  readonly #base: URL
  readonly #agent: Agent
  readonly #dataDir: string
  readonly #token: string | undefined

  constructor(endpoints: Endpoints, dataDir: string) {
    this.#base = new URL(endpoints.admin)
    this.#dataDir = dataDir
    const { operatorCertificate, operatorKey, operatorKeyPassphraseFile, apiTokenFile } = endpoints
    const passphrase = readPassphrase(operatorKeyPassphraseFile)
    this.#token = apiTokenFile === undefined ? undefined : readPrivateFile(apiTokenFile).trim()
    this.#agent = new Agent({
      keepAlive: true,
      ca: readFile(endpoints.rootCertificate),
      ...(operatorCertificate === undefined ? {} : { cert: readFile(operatorCertificate) }),
      ...(operatorKey === undefined ? {} : { key: readPrivateFile(operatorKey) }),
      ...(passphrase === undefined ? {} : { passphrase }),
      servername,
    })
  }

  [Symbol.dispose](): void {
    this.#agent.destroy()
  }

  /** A list, page by page; a page may be empty. */
  async *pages<T extends z.ZodType>(item: T, path: string, query: Query): AsyncGenerator<z.output<T>[]> {
    const page = z.object({ items: z.array(item), next: z.string().optional() }) satisfies ReturnType<typeof pageOf<T>>
    for (let cursor: string | undefined; ; ) {
      const part = await this.call(page, { method: 'GET', path, query: { ...query, cursor, limit: pageSize } })
      yield part.items
      if (part.next === undefined) return
      cursor = part.next
    }
  }

  async call<T extends z.ZodType>(schema: T, call: Call): Promise<z.output<T>> {
    return (await this.tagged(schema, call)).answer
  }

  /** The same with the ETag of the answer, where it has one. */
  async tagged<T extends z.ZodType>(schema: T, call: Call): Promise<{ answer: z.output<T>; tag: string | undefined }> {
    const headers = this.#headers({ accept: 'application/json' })
    if (call.ifMatch !== undefined) headers['if-match'] = call.ifMatch
    if (call.body !== undefined) headers['content-type'] = 'application/json'
    if (call.method !== 'GET') headers['idempotency-key'] = randomUUID()
    let answer: Answer
    try {
      answer = await this.#send(call, headers)
    } catch (error) {
      // The connection broke and the outcome is unknown: the same key asks for the same answer, so once more is safe.
      if (!isBroken(error)) throw this.#unavailable(error)
      answer = await this.#send(call, headers).catch((again) => {
        throw this.#unavailable(again)
      })
    }
    if (answer.status >= 400) throw problemOf(answer)
    try {
      return { answer: schema.parse(JSON.parse(answer.text)), tag: answer.tag }
    } catch (cause) {
      throw new FleetError('internal', `the gateway's answer to ${call.method} ${call.path} is not of this version`, {
        cause,
      })
    }
  }

  /**
   * The data of server-sent events (WHATWG HTML 9.2.6), until the connection ends.
   *
   * @param after id of the last one that was seen
   */
  async *follow(path: string, after: number | undefined, stop: AbortSignal): AsyncGenerator<unknown> {
    const headers = this.#headers({ accept: 'text/event-stream' })
    if (after !== undefined) headers['last-event-id'] = String(after)
    const sent = request(new URL(path, this.#base), { agent: this.#agent, headers, signal: stop })
    sent.end()
    try {
      const [response] = (await once(sent, 'response')) as [IncomingMessage]
      const status = response.statusCode ?? 0
      response.setEncoding('utf8')
      if (status >= 400) throw problemOf({ status, text: (await response.toArray()).join('') })
      let kept = ''
      for await (const chunk of response) {
        const events = `${kept}${chunk}`.split('\n\n')
        kept = events.pop()!
        if (kept.length > maxAnswerBytes) throw new Error(`an event is larger than ${maxAnswerBytes} bytes`)
        for (const event of events) {
          const lines = event.split('\n')
          const data = lines.find((line) => line.startsWith('data: '))?.slice('data: '.length)
          // The next connection is told why.
          if (lines.includes('event: ended')) return
          if (data !== undefined) yield JSON.parse(data)
        }
      }
    } catch (error) {
      if (stop.aborted || (after !== undefined && isBroken(error))) return
      throw isFleetError(error) ? error : this.#unavailable(error)
    } finally {
      sent.destroy()
    }
  }

  /** An answer of octets that may be long, as they come. */
  async download(path: string, body: unknown): Promise<IncomingMessage> {
    const headers = this.#headers({ 'content-type': 'application/json' })
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      const sent = request(new URL(path, this.#base), { agent: this.#agent, method: 'POST', headers }, resolve)
      sent.setTimeout(answerTimeoutMs, () => sent.destroy(new DOMException('no octet came', 'TimeoutError')))
      sent.on('error', (error) => reject(this.#unavailable(error)))
      sent.end(JSON.stringify(body))
    })
    const status = response.statusCode ?? 0
    if (status < 400) return response
    throw problemOf({ status, text: (await response.toArray()).join('') })
  }

  #headers(headers: Record<string, string>): Record<string, string> {
    return this.#token === undefined ? headers : { ...headers, authorization: `Bearer ${this.#token}` }
  }

  #send(call: Call, headers: Record<string, string>): Promise<Answer> {
    const url = new URL(call.path, this.#base)
    for (const [name, value] of Object.entries(call.query ?? {})) {
      for (const one of [value ?? []].flat()) url.searchParams.append(name, String(one))
    }
    const body = call.body === undefined ? undefined : JSON.stringify(call.body)
    const timeout = AbortSignal.timeout(answerTimeoutMs + (call.waitMs ?? 0))
    const signal = call.signal === undefined ? timeout : AbortSignal.any([timeout, call.signal])
    return new Promise((resolve, reject) => {
      const sent = request(url, { agent: this.#agent, method: call.method, headers, signal }, (response) => {
        const chunks: Buffer[] = []
        let bytes = 0
        response.on('data', (chunk: Buffer) => {
          chunks.push(chunk)
          bytes += chunk.length
          if (bytes > maxAnswerBytes) sent.destroy(new Error(`the answer is larger than ${maxAnswerBytes} bytes`))
        })
        response.on('error', reject)
        response.on('end', () =>
          resolve({
            status: response.statusCode ?? 0,
            text: Buffer.concat(chunks).toString('utf8'),
            tag: response.headers.etag,
          }),
        )
      })
      sent.on('error', (error) => reject(timeout.aborted ? timeout.reason : error))
      sent.end(body)
    })
  }

  #unavailable(cause: unknown): FleetError {
    const { code, message } = cause as NodeJS.ErrnoException
    const where = `the gateway at ${this.#base.origin}`
    // `up` would make another gateway in a folder that was handed over.
    const start = isOfGateway(this.#dataDir)
      ? `is it running? start it: ${commandLine(['up'], this.#dataDir)}`
      : `is it running there? ${join(this.#dataDir, 'endpoints.json')} says where it is asked, as admin`
    if (code === 'ECONNREFUSED')
      return new FleetError('unavailable', `${where} refuses connections; ${start}`, { cause })
    if (isBroken(cause)) return new FleetError('unavailable', `${where} broke the connection; ${start}`, { cause })
    if ((cause as Error).name === 'TimeoutError') {
      return new FleetError('unavailable', `${where} has not answered in time; look at its log, then try again`, {
        cause,
      })
    }
    return new FleetError('unavailable', `${where} cannot be used: ${message}`, { cause })
  }
}

const isBroken = (error: unknown): boolean =>
  ['ECONNRESET', 'EPIPE', 'ECONNABORTED'].includes((error as NodeJS.ErrnoException).code ?? '')

const problemBody = z.looseObject({
  code: z.string().optional(),
  title: z.string().optional(),
  detail: z.string().optional(),
})

function problemOf({ status, text }: Answer): FleetError {
  let body: z.output<typeof problemBody> = {}
  try {
    body = problemBody.parse(JSON.parse(text))
  } catch {
    // Not a problem document: the status is all there is.
  }
  const known = body.code !== undefined && Object.hasOwn(problems, body.code)
  const code = known ? (body.code as ProblemCode) : status < 500 ? 'request_malformed' : 'internal'
  const detail = body.detail ?? body.title ?? `the gateway answered ${status}`
  return new FleetError(code, detail, { context: { status, refused: status < 500 } })
}

function readFile(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (cause) {
    throw new FleetError('data_damaged', `${path} cannot be read: ${systemFault(cause)}`, { cause })
  }
}
