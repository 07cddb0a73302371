import { unwatchFile, watchFile } from 'node:fs'

/**
 * Tells when one of some files has become another. It looks at them time and again: a file that is put in place by rename,
 * by a link in its path or on another machine's disk tells nobody.
 */
export class FileWatch implements Disposable {
  readonly #everyMs: number
  readonly #changed: () => void
  #paths = new Set<string>()
  #settling: NodeJS.Timeout | undefined

  /**
   * @param changed is called once a change has been followed by `everyMs` without another: a file may be half written. And once
   *   for files that are new here: what they were when they were read is not known, only what they are from the first look on
   */
  constructor(everyMs: number, changed: () => void) {
    this.#everyMs = everyMs
    this.#changed = changed
  }

  /** From now on these and no others; one need not be there. */
  watch(paths: Iterable<string>): void {
    const wanted = new Set(paths)
    for (const path of this.#paths) if (!wanted.has(path)) unwatchFile(path, this.#noted)
    for (const path of wanted) {
      if (this.#paths.has(path)) continue
      watchFile(path, { interval: this.#everyMs, persistent: false }, this.#noted)
      this.#noted()
    }
    this.#paths = wanted
    if (wanted.size === 0) clearTimeout(this.#settling)
  }

  readonly #noted = (): void => {
    clearTimeout(this.#settling)
    this.#settling = setTimeout(this.#changed, this.#everyMs)
  };

  [Symbol.dispose](): void {
    this.watch([])
  }
}
