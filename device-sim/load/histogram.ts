/**
 * Durations in fixed memory, each kept to within 1.6 % of itself: every doubling of the value has 64 slots, as an HDR
 * histogram has them. Those of several processes are added without loss.
 */
const slotsPerDoubling = 64
const exactBelow = 2 * slotsPerDoubling
const longestUs = 2 ** 31 - 1
const slots = slotOf(longestUs) + 1

/** What goes to another process: the slots that are in use, each as its number and its count, one after the other. */
export type HistogramPart = { slots: number[]; maxUs: number }

export class Histogram {
  readonly #counts = new Float64Array(slots)
  #count = 0
  #maxUs = 0

  get count(): number {
    return this.#count
  }

  get maxUs(): number {
    return this.#maxUs
  }

  /** @param us microseconds; what is longer than 35 minutes counts as that long */
  record(us: number): void {
    const bounded = Math.min(Math.max(Math.round(us), 0), longestUs)
    this.#counts[slotOf(bounded)]!++
    this.#count++
    this.#maxUs = Math.max(this.#maxUs, bounded)
  }

  /** @param p 0 to 100 @returns microseconds that so many per cent do not exceed; 0 where nothing was recorded */
  percentile(p: number): number {
    const wanted = Math.max(1, Math.ceil((p / 100) * this.#count))
    let seen = 0
    for (let slot = 0; slot < slots; slot++) {
      seen += this.#counts[slot]!
      if (seen >= wanted) return Math.min(highestOf(slot), this.#maxUs)
    }
    return 0
  }

  part(): HistogramPart {
    const used: number[] = []
    for (const [slot, count] of this.#counts.entries()) if (count > 0) used.push(slot, count)
    return { slots: used, maxUs: this.#maxUs }
  }

  add(part: HistogramPart): void {
    for (let at = 0; at < part.slots.length; at += 2) {
      this.#counts[part.slots[at]!]! += part.slots[at + 1]!
      this.#count += part.slots[at + 1]!
    }
    this.#maxUs = Math.max(this.#maxUs, part.maxUs)
  }
}

function slotOf(us: number): number {
  if (us < exactBelow) return us
  const shift = 31 - Math.clz32(us) - Math.log2(slotsPerDoubling)
  return shift * slotsPerDoubling + (us >>> shift)
}

function highestOf(slot: number): number {
  if (slot < exactBelow) return slot
  const shift = Math.floor(slot / slotsPerDoubling) - 1
  return (slot - shift * slotsPerDoubling + 1) * 2 ** shift - 1
}
