import { type ProblemCode, setUpProblems } from '../contract/problems.ts'

/**
 * The one error class. `code` is a key of the problem registry, the message is for the caller (what was seen, what was
 * wanted, no secrets), `cause` and `context` are for the log.
 */
export class FleetError extends Error {
  override readonly name = 'FleetError'
  readonly code: ProblemCode
  readonly context: Record<string, unknown>

  constructor(
    code: ProblemCode,
    message: string,
    options: { cause?: unknown; context?: Record<string, unknown> } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.context = options.context ?? {}
  }
}

export const isFleetError = (error: unknown, code?: ProblemCode): error is FleetError =>
  error instanceof FleetError && (code === undefined || error.code === code)

/** 2 when the operator has to change something before a start can work, 1 for any other failure. */
export const exitCodeOf = (error: unknown): 1 | 2 =>
  error instanceof FleetError && setUpProblems.has(error.code) ? 2 : 1

const faults: Record<string, string> = {
  ENOENT: 'there is no such file or folder',
  ENOTDIR: 'a part of the path is a file, not a folder',
  EISDIR: 'it is a folder',
  EEXIST: 'it is there already',
  EACCES: 'this user may not',
  EPERM: 'this user may not',
  EROFS: 'the disk is read-only',
  ENOSPC: 'the disk is full',
}

/** Why the system refused to open, read or write something, in words where there are some. */
export function systemFault(cause: unknown): string {
  const { code = '', message } = cause as NodeJS.ErrnoException
  return faults[code] ?? message
}
