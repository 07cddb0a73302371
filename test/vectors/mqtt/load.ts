/** Octets of MQTT 3.1, 3.1.1 and 5: single packets and dialogues. `format` in each file says what means what. */
import { globSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import type { Packet, Version } from '../../../broker/wire/packet.ts'
import type { ReasonName } from '../../../broker/wire/reason.ts'

export type Answer = string | { connack: number; version: Version } | { disconnect: number }
export type MqttVector = {
  name: string
  version: Version
  state: 'fresh' | 'connected'
  from: 'client' | 'server'
  bytes: Buffer
  clause: string
  answer?: Answer
} & ({ packet: Packet; refuse?: never } | { packet?: never; refuse: ReasonName })

const octets = new Set(['payload', 'password', 'correlationData', 'authenticationData'])
const revive = (key: string, value: unknown): unknown =>
  typeof value === 'string' && octets.has(key) ? Buffer.from(value, 'hex') : value

export type Step = { packet?: string } & (
  | { client: string; send: string }
  | { client: string; expect: string | string[] }
  | { client: string; drop: true }
  | { later: number }
)
export type Dialogue = { name: string; clause: string; alone?: true; steps: Step[] }

const filesOf = (pattern: string): string[] => globSync(pattern, { cwd: import.meta.dirname }).sort()

/** Vectors by file name without its ending. */
export function mqttVectors(): Map<string, MqttVector[]> {
  const files = filesOf('*.json').filter((file) => !file.startsWith('dialogue'))
  return new Map(
    files.map((file) => {
      const { cases } = JSON.parse(readFileSync(join(import.meta.dirname, file), 'utf8'), revive)
      return [
        basename(file, '.json'),
        cases.map((one: { from?: string; bytes: string }) => ({
          ...one,
          from: one.from ?? 'client',
          bytes: Buffer.from(one.bytes.replaceAll(' ', ''), 'hex'),
        })),
      ]
    }),
  )
}

/** Dialogues by file name without its ending. */
export function mqttDialogues(): Map<string, Dialogue[]> {
  return new Map(
    filesOf('dialogue*.json').map((file) => [
      basename(file, '.json'),
      JSON.parse(readFileSync(join(import.meta.dirname, file), 'utf8')).cases,
    ]),
  )
}
