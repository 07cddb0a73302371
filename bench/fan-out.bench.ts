/**
 * One application to many devices: messages delivered per second of broker CPU, versions 3.1.1 and 5, beside bare aedes and
 * mosquitto in one run and in turns. One publisher and 200 subscribers over mutual TLS.
 *
 *   npm run bench -- fan-out [rounds] [messages a round]
 */
import { Bench } from './harness.ts'
import { compare } from './throughput.ts'

const rounds = Number(process.argv[2] ?? 5)
const messages = Number(process.argv[3] ?? 500_000)

await using bench = await Bench.start()
await compare(bench, {
  title: '1 publisher, 200 subscribers, 128 octets',
  publishers: await bench.devices(1, 'sensor', 'pub'),
  subscribers: await bench.devices(200, 'service', 'sub'),
  modes: [{ name: 'QoS 0', qos: 0, granted: 0, wanted: 5 }],
  underWay: 50,
  payloadBytes: 128,
  rounds,
  messages,
})
