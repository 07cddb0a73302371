import { createInterface } from 'node:readline'
import { Writable } from 'node:stream'

/** A line typed unseen at a terminal, else the first line of standard input. */
export async function readSecret(question: string): Promise<string> {
  try {
    return await firstLine(question, new Writable({ write: (_chunk, _encoding, done) => done() }))
  } finally {
    if (isTerminal()) process.stderr.write('\n')
  }
}

/** A line typed at a terminal, else the first line of standard input. */
export const readLine = (question: string): Promise<string> => firstLine(question, process.stderr)

const isTerminal = (): boolean => process.stdin.isTTY === true

async function firstLine(question: string, echo: NodeJS.WritableStream): Promise<string> {
  if (isTerminal()) process.stderr.write(question)
  const lines = createInterface({ input: process.stdin, output: echo, terminal: isTerminal() })
  try {
    for await (const line of lines) return line
    return ''
  } finally {
    lines.close()
  }
}
