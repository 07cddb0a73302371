/** A part of the admin API: brokers, and what they prove themselves with. */
import { z } from 'zod'
import { ends } from './admin-api.ts'
import { brokerId } from './service-settings.ts'

const label = '[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?'
const dnsName = z
  .string()
  .max(253)
  .regex(new RegExp(`^${label}(?:\\.${label})*$`))
const hostName = z.union([dnsName, z.ipv4(), z.ipv6()], { error: 'a DNS name or an IP address is wanted' })
export const isHostName = (text: string): boolean => hostName.safeParse(text).success

export const createBroker = z.strictObject({
  id: brokerId.describe('`broker.id` of its configuration; no other broker may have it'),
  names: z.array(hostName).min(1).max(32).describe('DNS names and IP addresses that devices reach it by'),
  csr: z
    .string()
    .max(24_000)
    .describe('PKCS#10 in PEM, for a key that stays with the broker; its subject is not looked at'),
})

const certified = {
  names: z.array(z.string()).describe('That stand in its certificate'),
  serial: z.string().optional().describe('Of its newest certificate'),
  expiresAt: z.string().optional().describe('When that certificate does'),
}
export const brokerCredential = z.object({
  id: z.string(),
  ...certified,
  certificate: z.string().describe('PEM of the certificate and of the CA that issued it'),
})
export const brokerView = z.object({
  id: z.string(),
  connected: z.boolean(),
  appliedSeq: z
    .number()
    .optional()
    .describe('Place in the trust feed up to which it has confirmed; absent of one that has never come'),
  lastSeenAt: z.string().optional(),
  ...ends,
  ...certified,
})
export const brokerList = z.object({ items: z.array(brokerView) })
export const brokerForgotten = z.object({
  id: z.string(),
  certificates: z.array(z.string()).describe('Serial numbers revoked by this call'),
})

export type CreateBroker = z.input<typeof createBroker>
export type BrokerCredential = z.output<typeof brokerCredential>
export type BrokerView = z.output<typeof brokerView>
export type BrokerForgotten = z.output<typeof brokerForgotten>
