import { availableParallelism } from 'node:os'

/**
 * Whether a signature is worth a thread of libuv's pool. It takes the main thread 6 to 11 microseconds in place of 30 to 140, and
 * the process a tenth more than here; where the neighbours have the other core, that is all there is to it.
 */
export const hasCoresToSpare = availableParallelism() > 2
