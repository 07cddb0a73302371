import { generate } from 'lean-qr'
import { styled } from './output.ts'

/** ISO/IEC 18004 9.1: so many light modules around. */
const quiet = 4

/**
 * A text as a QR code for a terminal: two modules above each other in one character. With colour it is dark on light whatever the
 * terminal's own colours are, as readers want it; without, it takes a terminal that is light on dark.
 */
export function qrCode(text: string, colour: boolean): string {
  const code = generate(text)
  const isLight = (x: number, y: number): boolean => !code.get(x, y)
  const places = Array.from({ length: code.size + 2 * quiet }, (_, at) => at - quiet)
  const rows = places.filter((_, at) => at % 2 === 0)
  return rows
    .map((y) => places.map((x) => blocks[`${isLight(x, y)} ${isLight(x, y + 1)}`]).join(''))
    .map((line) => `${styled(['whiteBright', 'bgBlack'], line, colour)}\n`)
    .join('')
}

const blocks: Record<string, string> = {
  'true true': '█',
  'true false': '▀',
  'false true': '▄',
  'false false': ' ',
}
