import type { Command } from 'commander'
import { examplesOf } from '../cli/commands/shared.ts'
import { createProgram, exitCodes } from '../cli/program.ts'
import { printedBy } from './printing.ts'

/** Said once for all commands. */
const common = ['--data', '--config', '--output']

export function commandsPage(): string {
  const program = createProgram({
    out: () => {},
    err: () => {},
    isTerminal: false,
    colour: false,
    env: {},
    readSecret: async () => '',
    readLine: async () => '',
    untilSignal: () => new AbortController().signal,
    onHangUp: () => {},
  })
  const all = commandsBelow(program, 'fleetgate')
  const meanings: Record<(typeof exitCodes)[number], string> = {
    ok: 'it is done, or the answer is yes',
    failure: 'it was tried and failed, or nobody answers; standard error says what happened and what to type next',
    'usage or set-up': 'a wrong command line, or a configuration, data folder or key that a start cannot use',
    refused:
      'the gateway said no (its API answered 4xx), or a check did: `cert verify`, `policy can-i`, `renew --check` and the like',
  }
  return `${printedBy}
# Commands

\`npx fleetgate\` in this folder, \`fleetgate\` where it is installed. \`--help\` behind any of these prints what stands here, and \`completion\` a script
that has the shell complete them.

- \`--data <dir>\`: the data folder of the gateway that is meant, or of an operator (default: \`FLEETGATE_DATA\`, else \`data:\` of the configuration, else \`./data\`).
- \`--config <file>\`: the configuration file (default: \`fleetgate.yaml\` where there is one).
- \`-o\`, \`--output\`: the form of the answer. \`table\` is for people and may change; [json.md](json.md) has what scripts can rely on.

| exit code | | |
|---|---|---|
${exitCodes.map((name, code) => `| ${code} | ${name} | ${meanings[name]} |`).join('\n')}

| command | |
|---|---|
${all.map(({ command, name }) => `| [\`${name}\`](#${name.replaceAll(' ', '-')}) | ${cell(command.description())} |`).join('\n')}

${all.map(section).join('\n')}`
}

type Named = { command: Command; name: string }

const commandsBelow = (parent: Command, before: string): Named[] =>
  parent.commands.flatMap((command) => {
    const name = `${before} ${command.name()}`
    return [{ command, name }, ...commandsBelow(command, name)]
  })

function section({ command, name }: Named): string {
  const help = command.createHelp()
  const options = help.visibleOptions(command).filter(({ long }) => long !== '--help')
  const takes = [
    ...help.visibleArguments(command).map((one) => [help.argumentTerm(one), help.argumentDescription(one)]),
    ...options
      .filter(({ long }) => !common.includes(long!))
      .map((one) => [help.optionTerm(one), help.optionDescription(one)]),
  ]
  const also = options
    .filter(({ long }) => common.includes(long!))
    .map(({ long, argChoices }) => `\`${long === '--output' ? `-o ${argChoices!.join('|')}` : long}\``)
  const below = command.commands.map((child) => `\`${child.name()}\``)
  return [
    `## ${name}`,
    `\`${help.commandUsage(command)}\``,
    '',
    sentence(command.description()),
    ...(below.length === 0 ? [] : ['', `Below it: ${below.join(', ')}.`]),
    ...(takes.length === 0
      ? []
      : ['', '| | |', '|---|---|', ...takes.map(([term, text]) => `| \`${bars(term!)}\` | ${cell(text!)} |`)]),
    ...(also.length === 0 ? [] : ['', `${takes.length === 0 ? '' : 'Also '}${also.join(', ')}.`]),
    ...(examplesOf(command).length === 0 ? [] : ['', ...examplesOf(command).map((line) => `- \`fleetgate ${line}\``)]),
    '',
  ].join('\n')
}

const bars = (text: string): string => text.replaceAll('|', '\\|')
const cell = (text: string): string => bars(text).replaceAll('<', '&lt;')

const sentence = (text: string): string => `${text[0]!.toUpperCase()}${text.slice(1)}.`
