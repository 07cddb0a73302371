/** Ends a silence. What is heard sets no timer: whether it was lately enough is looked at when the time is up. */
export class Watchdog {
  readonly #onSilence: () => void
  #limitMs = 0
  #heardAt = 0
  #timer: NodeJS.Timeout | undefined

  constructor(onSilence: () => void) {
    this.#onSilence = onSilence
  }

  /** Begins anew. @param limitMs 0 for none */
  start(limitMs: number): void {
    this.stop()
    this.#limitMs = limitMs
    this.heard(performance.now())
    if (limitMs > 0) this.#timer = setTimeout(this.#look, limitMs)
  }

  /** @param now `performance.now()` */
  heard(now: number): void {
    this.#heardAt = now
  }

  stop(): void {
    clearTimeout(this.#timer)
  }

  #look = (): void => {
    const leftMs = this.#heardAt + this.#limitMs - performance.now()
    if (leftMs > 0) this.#timer = setTimeout(this.#look, Math.ceil(leftMs))
    else this.#onSilence()
  }
}

/** How long a client may be silent [MQTT-3.1.2-22] ([MQTT-3.1.2-24] of 3.1.1). @param keepAlive seconds, 0 for no limit */
export const silenceMs = (keepAlive: number): number => keepAlive * 1_500
