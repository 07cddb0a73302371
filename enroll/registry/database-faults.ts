/** What can be wrong with the folder of a LevelDB, and what its errors say. */
import { readdirSync } from 'node:fs'
import { FleetError, isFleetError, systemFault } from '../../runtime/errors.ts'
import { makeFolder } from '../../runtime/files.ts'

export function openError(folder: string, error: unknown): FleetError {
  if (error instanceof FleetError) return error
  if (codesOf(error).includes('LEVEL_LOCKED')) {
    return new FleetError('data_in_use', `${folder} is in use by another instance`, { cause: error })
  }
  const why = error instanceof Error && error.cause instanceof Error ? error.cause.message : String(error)
  return new FleetError('data_damaged', `${folder} cannot be opened: ${why}`, { cause: error })
}

/** LevelDB takes a folder that has lost its CURRENT file for a new one, and would begin again with an empty registry. */
export function requireWholeFolder(folder: string): void {
  let names: string[]
  try {
    makeFolder(folder)
    names = readdirSync(folder)
  } catch (cause) {
    throw isFleetError(cause)
      ? cause
      : new FleetError('data_damaged', `${folder} cannot be opened: ${systemFault(cause)}`, { cause })
  }
  if (!names.includes('CURRENT') && names.some((name) => /^\d+\.(ldb|log|sst)$/.test(name))) {
    throw new FleetError('data_damaged', `${folder} has lost files; restore it from a backup`)
  }
}

/** abstract-level wraps the engine's error as the cause of its own. */
export function codesOf(error: unknown): unknown[] {
  const codes: unknown[] = []
  for (let at = error; at instanceof Error && codes.length < 5; at = at.cause)
    codes.push((at as { code?: unknown }).code)
  return codes
}
