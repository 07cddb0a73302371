import type { Command } from 'commander'
import type { Io } from '../io.ts'
import { addApprovals } from './approvals.ts'

export function addEnroll(program: Command, io: Io): void {
  const enroll = program.command('enroll').description('enrollment: requests that wait for approval')
  addApprovals(enroll, io)
}
