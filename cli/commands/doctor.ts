import { existsSync, readFileSync } from 'node:fs'
import type { Command } from 'commander'
import { loadConfig } from '../../runtime/config.ts'
import { commandLine, endpointsFile, readEndpoints } from '../../runtime/endpoints.ts'
import { FleetError, isFleetError } from '../../runtime/errors.ts'
import { openAdminClient } from '../admin-client.ts'
import { type Finding, fail, ok, warn } from '../doctor/finding.ts'
import { judgeAuthorities, judgeLists, judgeStatus, settledStatus } from '../doctor/gateway.ts'
import { lookAtPorts } from '../doctor/listening.ts'
import { lookAtCertificates, lookAtFolder, lookAtKeys, lookAtNode, lookAtOpenFiles } from '../doctor/machine.ts'
import { lookAtClock, lookAtListeners } from '../doctor/tls.ts'
import { type Io, settingsOf } from '../io.ts'
import { styled, visible } from '../output.ts'
import { addressesOf } from '../ports.ts'
import { type Common, defaultConfig, examples, print, withCommon } from './shared.ts'

type Options = Common & { config?: string }

export function addDoctor(program: Command, io: Io): void {
  examples(withCommon(program.command('doctor')), 'doctor', 'doctor --data /var/lib/fleetgate -o json')
    .description('look for what is wrong, with a gateway that runs or before it starts, and say what to do about it')
    .action(async (options: Options) => {
      const findings = await examine(io, options, () => new Date())
      const failed = findings.filter(({ state }) => state === 'fail').length
      print(io, options, { ok: failed === 0, findings }, () => findings.map(line).join(''))
      if (failed === 0) return
      const what = failed === 1 ? 'one thing is' : `${failed} things are`
      throw new FleetError('unhealthy', `${what} wrong; what to do stands below each`)
    })

  const marks = { ok: ['green', '✔'], warn: ['yellow', '!'], fail: ['red', '✘'] } as const
  const line = ({ check, state, what, fix }: Finding): string => {
    const [colour, mark] = marks[state]
    const told = `${styled(colour, mark, io.colour)} ${check.padEnd(14)}  ${visible(what)}\n`
    return fix === undefined ? told : `${told}${' '.repeat(18)}${visible(fix)}\n`
  }
}

async function examine(io: Io, options: Options, clock: () => Date): Promise<Finding[]> {
  const { data: dataDir } = options
  const file = options.config ?? (existsSync(defaultConfig) ? defaultConfig : undefined)
  const findings: Finding[] = [lookAtNode(process.version)]
  const config = attempt(findings, 'configuration', () => loadConfig({ file, env: settingsOf(io.env) }))
  if (config !== undefined) {
    findings.push(ok('configuration', file === undefined ? 'no file: the defaults' : `${file} is in order`))
    const limits = '/proc/self/limits'
    if (existsSync(limits)) findings.push(lookAtOpenFiles(readFileSync(limits, 'utf8'), config))
  }
  findings.push(...lookAtFolder(dataDir), ...lookAtKeys(dataDir, config?.keys.passphraseFile))
  findings.push(...lookAtCertificates(dataDir, clock()))
  if (!existsSync(endpointsFile(dataDir))) {
    findings.push(warn('gateway', `none runs on ${dataDir}`, commandLine(['up'], dataDir)))
    if (config !== undefined) findings.push(...(await lookAtPorts(addressesOf(config))))
    return findings
  }
  const endpoints = attempt(findings, 'gateway', () => readEndpoints(dataDir))
  if (endpoints === undefined) return findings
  try {
    using client = openAdminClient(dataDir)
    const status = await settledStatus(() => client.status())
    findings.push(...judgeStatus(status, dataDir), ...judgeAuthorities(status, clock()))
    findings.push(...judgeLists((await client.listCrls()).items, clock(), dataDir))
  } catch (error) {
    findings.push(failure('gateway', error))
  }
  findings.push(...(await lookAtListeners(endpoints, clock())), await lookAtClock(endpoints, clock))
  return findings
}

function attempt<T>(findings: Finding[], check: string, look: () => T): T | undefined {
  try {
    return look()
  } catch (error) {
    findings.push(failure(check, error))
    return undefined
  }
}

/** A sentence of ours has its advice behind a semicolon, where there is any. */
function failure(check: string, error: unknown): Finding {
  if (!isFleetError(error)) throw error
  const [what = '', ...fix] = error.message.split('; ')
  return fail(check, what, fix.join('; ') || 'what it means: docs/errors.md')
}
