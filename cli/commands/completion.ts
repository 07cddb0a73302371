import { Argument, type Command } from 'commander'
import { completionOf, type Shell, shells } from '../completion.ts'
import type { Io } from '../io.ts'
import { examples } from './shared.ts'

export function addCompletion(program: Command, io: Io): void {
  examples(
    program.command('completion'),
    'completion bash > ~/.local/share/bash-completion/completions/fleetgate',
    'completion zsh > ~/.zfunc/_fleetgate',
    'completion fish > ~/.config/fish/completions/fleetgate.fish',
  )
    .description('print a script that completes commands, options, their choices and ids of devices')
    .addArgument(new Argument('<shell>', 'for which').choices(shells))
    .action((shell: Shell) => io.out(completionOf(program, shell)))
}
