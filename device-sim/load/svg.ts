/** A line chart as SVG: all in one element, its colours by the classes of the page that it is put into. */

/** @property values undefined ones leave a gap @property isDashed so that a line below it is seen where they are one */
export type Line = { name: string; values: (number | undefined)[]; isDashed?: boolean }
type Chart = {
  title: string
  /** Of the values, after each number. */
  unit: string
  /** Seconds from one value to the next. */
  step: number
  lines: Line[]
}

const width = 760
const height = 240
const left = 64
const right = 12
const top = 12
const bottom = 40
const wantedTicks = 5

/** Texts are escaped. */
export function lineChart({ title, unit, step, lines }: Chart): string {
  const points = Math.max(1, ...lines.map(({ values }) => values.length))
  const ticks = ticksTo(Math.max(0, ...lines.flatMap(({ values }) => values.filter((value) => value !== undefined))))
  const seconds = ticksTo((points - 1) * step, 8)
  const highest = ticks.at(-1)!
  const x = (at: number): number => left + (at / Math.max(1, points - 1)) * (width - left - right)
  const y = (value: number): number => height - bottom - (value / highest) * (height - top - bottom)
  const grid = ticks.map(
    (tick) =>
      `<line class="grid" x1="${left}" x2="${width - right}" y1="${fixed(y(tick))}" y2="${fixed(y(tick))}"/>` +
      `<text class="tick" x="${left - 8}" y="${fixed(y(tick) + 4)}" text-anchor="end">${tick.toLocaleString('en')}</text>`,
  )
  const axis = seconds
    .filter((second) => second <= (points - 1) * step)
    .map(
      (second) =>
        `<text class="tick" x="${fixed(x(second / step))}" y="${height - bottom + 18}" text-anchor="middle">${second}</text>`,
    )
  const paths = lines.map(({ values, isDashed }, at) =>
    pathsOf(values, x, y, `line-${at + 1}${isDashed ? ' dashed' : ''}`),
  )
  const half = (x(1) - x(0)) / 2
  const hovers = Array.from({ length: points }, (_, at) => {
    const said = lines.map(({ name, values }) => `${name}: ${values[at]?.toLocaleString('en') ?? 'none'} ${unit}`)
    const from = Math.max(left, x(at) - half)
    return `<rect class="hover" x="${fixed(from)}" y="${top}" width="${fixed(x(at) + half - from)}" height="${height - top - bottom}"><title>${escaped([`${at * step} s`, ...said].join('\n'))}</title></rect>`
  })
  return [
    `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escaped(title)}">`,
    ...grid,
    `<line class="axis" x1="${left}" x2="${width - right}" y1="${height - bottom}" y2="${height - bottom}"/>`,
    ...axis,
    `<text class="unit" x="${(left + width - right) / 2}" y="${height - 4}" text-anchor="middle">seconds since the first connection</text>`,
    `<text class="unit" x="14" y="${(top + height - bottom) / 2}" text-anchor="middle" transform="rotate(-90 14 ${(top + height - bottom) / 2})">${escaped(unit)}</text>`,
    ...paths,
    ...hovers,
    '</svg>',
  ].join('\n')
}

/** Numbers that people count in, from 0 to the first of them that is not below `value`. */
export function ticksTo(value: number, wanted = wantedTicks): number[] {
  if (value <= 0) return [0, 1]
  const rough = value / wanted
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough * (1 - 1e-9))!
  return Array.from({ length: Math.ceil(value / step - 1e-9) + 1 }, (_, at) => Number((at * step).toPrecision(12)))
}

export const escaped = (text: string): string =>
  text.replaceAll(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`).replaceAll(/[^\P{C}\n]/gu, ' ')

/** One for each stretch without a gap; a value that stands alone is a dot. */
function pathsOf(
  values: Line['values'],
  x: (at: number) => number,
  y: (value: number) => number,
  name: string,
): string {
  const stretches: string[][] = [[]]
  for (const [at, value] of values.entries()) {
    if (value === undefined) stretches.push([])
    else stretches.at(-1)!.push(`${fixed(x(at))} ${fixed(y(value))}`)
  }
  return stretches
    .filter((points) => points.length > 0)
    .map((points) => `<path class="line ${name}" d="M${points.join('L')}${points.length === 1 ? 'h0' : ''}"/>`)
    .join('\n')
}

const fixed = (value: number): string => String(Math.round(value * 10) / 10)
