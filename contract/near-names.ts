/** Names that somebody may have meant who typed another. */

/** More than so many are of no help. */
const atMost = 3
const longest = 64

/** Those of `known` that are a few slips of a finger away from a name, the nearest first. */
export function nearNames(name: string, known: Iterable<string>): string[] {
  const typed = name.slice(0, longest).toLowerCase()
  const mayDiffer = Math.min(3, Math.max(1, Math.floor(typed.length / 3)))
  const near = [...new Set(known)]
    .map((one) => ({ one, slips: slipsBetween(typed, one.slice(0, longest).toLowerCase()) }))
    .filter(({ slips }) => slips <= mayDiffer)
  return near
    .sort((a, b) => a.slips - b.slips || (a.one < b.one ? -1 : 1))
    .slice(0, atMost)
    .map(({ one }) => one)
}

/** Empty where nothing is near; else to stand behind a sentence. */
export function didYouMean(name: string, known: Iterable<string>): string {
  const near = nearNames(name, known)
  return near.length === 0 ? '' : `; did you mean ${near.join(' or ')}?`
}

/** Characters that are other, missing or too many, and neighbours that changed places (optimal string alignment). */
function slipsBetween(a: string, b: string): number {
  let before: number[] = []
  let last = Array.from({ length: b.length + 1 }, (_, at) => at)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const isSame = a[i - 1] === b[j - 1]
      const isSwapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]
      row.push(
        Math.min(
          last[j]! + 1,
          row[j - 1]! + 1,
          last[j - 1]! + (isSame ? 0 : 1),
          isSwapped ? before[j - 2]! + 1 : Number.POSITIVE_INFINITY,
        ),
      )
    }
    before = last
    last = row
  }
  return last[b.length]!
}
