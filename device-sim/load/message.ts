/** The payload of a message of the load: when it was to be sent, by `monotonicUs`, and of which run it is. */
export const leastPayloadBytes = 12

export function templateOf(run: number, bytes: number): Buffer {
  const template = Buffer.alloc(bytes, 'x')
  template.writeUInt32BE(run, 8)
  return template
}

export function stamped(template: Buffer, dueUs: number): Buffer {
  const payload = Buffer.from(template)
  payload.writeDoubleBE(dueUs)
  return payload
}

/** @returns undefined for a message of somebody else */
export const dueOf = (payload: Buffer, run: number): number | undefined =>
  payload.length >= leastPayloadBytes && payload.readUInt32BE(8) === run ? payload.readDoubleBE() : undefined
