import { InvalidArgumentError } from 'commander'
import { isDeviceId, nameRule } from '../../contract/ids.ts'
import { readLines } from './shared.ts'

export type Serial = { serial: string; deviceId: string }

/**
 * A file of serial numbers, one a line, with the device id behind a comma where it is another. Empty lines, lines that begin
 * with # and a first line `serial` or `serial,device` say nothing.
 *
 * @throws InvalidArgumentError with the line
 */
export function readSerials(path: string): Serial[] {
  const serials = readLines(path).flatMap((line, at) => {
    const isHead = at === 0 && /^serial(,device)?$/i.test(line.trim())
    return isHead || /^\s*(#|$)/.test(line) ? [] : [readLine(line, at + 1)]
  })
  if (serials.length === 0) throw new InvalidArgumentError('There is no serial number in it.')
  return serials
}

function readLine(line: string, number: number): Serial {
  const [serial = '', deviceId = serial, ...more] = line.split(',').map((field) => field.trim())
  if (serial === '' || more.length > 0 || line.includes('"')) {
    throw new InvalidArgumentError(
      `Line ${number}: serial number, or serial number,device id, without quotes is wanted.`,
    )
  }
  if (!isDeviceId(deviceId)) {
    throw new InvalidArgumentError(
      `Line ${number}: ${deviceId} can be no device id (${nameRule}); put one behind a comma.`,
    )
  }
  return { serial, deviceId }
}
