/** Scripts for shells, printed from the tree of commands: what they offer is what there is. */
import type { Command } from 'commander'

export const shells = ['bash', 'zsh', 'fish'] as const
export type Shell = (typeof shells)[number]

/** `words` names the command, as `device create`; `values` are those that an option is chosen from. */
type Offer = { words: string; commands: string[]; options: { flag: string; values: string[]; takes: boolean }[] }

export function completionOf(program: Command, shell: Shell): string {
  const offers = offersOf(program, [])
  if (shell === 'fish') return fish(program.name(), offers)
  const bash = bashOf(program.name(), offers)
  // zsh runs such a function as it stands.
  return shell === 'zsh' ? `#compdef ${program.name()}\nautoload -U +X bashcompinit && bashcompinit\n${bash}` : bash
}

function offersOf(command: Command, words: string[]): Offer[] {
  const options = command.options.flatMap(({ long, short, argChoices, required, optional }) =>
    [long, short].flatMap((flag) =>
      flag ? [{ flag, values: argChoices ?? [], takes: required === true || optional === true }] : [],
    ),
  )
  const own: Offer = {
    words: words.join(' '),
    commands: command.commands.map((child) => child.name()),
    options: [...options, { flag: '--help', values: [], takes: false }],
  }
  return [own, ...command.commands.flatMap((child) => offersOf(child, [...words, child.name()]))]
}

/** The first argument of these is a device, as far as it is one: the gateway is asked for its ids, and says nothing if it is not there. */
const ofDevices = /^(device (show|set|disable|enable|revoke|stolen|readmit)|session (show|kick)|enroll allow-late)$/

const quoted = (text: string): string => `'${text.replaceAll("'", String.raw`'\''`)}'`

function bashOf(name: string, offers: Offer[]): string {
  const line = (label: string, text: string): string => `    ${label}) ${text} ;;`
  const commands = offers.map(({ words, commands: below, options }) =>
    line(quoted(words), `offered=${quoted([...below, ...options.map(({ flag }) => flag)].join(' '))}`),
  )
  const known = offers.filter(({ words }) => words !== '').map(({ words }) => quoted(words))
  const taking = offers.flatMap(({ words, options }) =>
    options.filter(({ takes }) => takes).map(({ flag, values }) => ({ key: `${words} ${flag}`, values })),
  )
  const values = taking.map(({ key, values: from }) => line(quoted(key), `takes=1 offered=${quoted(from.join(' '))}`))
  const devices = offers.filter(({ words }) => ofDevices.test(words)).map(({ words }) => quoted(words))
  return `_${name}() {
  local current="\${COMP_WORDS[COMP_CWORD]}" place='' last='' offered='' takes='' data='' at next
  for ((at = 1; at < COMP_CWORD; at++)); do
    last="\${COMP_WORDS[at]}"
    [[ "\${COMP_WORDS[at - 1]}" == --data ]] && data="$last"
    next="\${place:+$place }$last"
    case "$next" in ${known.join('|')}) place="$next" ;; esac
  done
  case "$place $last" in
${values.join('\n')}
  esac
  if [[ -z "$takes" ]]; then
    case "$place" in
${commands.join('\n')}
    esac
    if [[ "$current" != -* ]]; then
      case "$place" in ${devices.join('|')})
        offered="$offered $(${name} device ls -o name \${data:+--data "$data"} 2>/dev/null </dev/null)" ;;
      esac
    fi
  fi
  COMPREPLY=()
  while IFS= read -r next; do COMPREPLY+=("$next"); done < <(compgen -W "$offered" -- "$current")
  # Where nothing is offered a file may be meant.
  [[ -n "$takes" && -z "$offered" ]] && while IFS= read -r next; do COMPREPLY+=("$next"); done < <(compgen -f -- "$current")
  return 0
}
complete -F _${name} ${name}
`
}

function fish(name: string, offers: Offer[]): string {
  const lines = offers.flatMap(({ words, commands, options }) => {
    const here = `-n ${quoted(`__${name}_at ${words}`.trimEnd())}`
    return [
      ...(commands.length === 0 ? [] : [`complete -c ${name} -f ${here} -a ${quoted(commands.join(' '))}`]),
      ...options.map(({ flag, values, takes }) => {
        const form = flag.startsWith('--') ? `-l ${flag.slice(2)}` : `-s ${flag.slice(1)}`
        const from = values.length > 0 ? ` -x -a ${quoted(values.join(' '))}` : takes ? ' -r' : ''
        return `complete -c ${name} ${here} ${form}${from}`
      }),
      ...(ofDevices.test(words)
        ? [`complete -c ${name} -f ${here} -a ${quoted(`(${name} device ls -o name 2>/dev/null)`)}`]
        : []),
    ]
  })
  const known = offers.filter(({ words }) => words !== '').map(({ words }) => quoted(words))
  return `function __${name}_at
  set -l words
  for word in (commandline -opc)[2..-1]
    set -l next (string join -- ' ' $words $word)
    contains -- "$next" ${known.join(' ')}; and set words $next
  end
  test "$words" = "$argv"
end
${lines.join('\n')}
`
}
