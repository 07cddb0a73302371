/**
 * Many devices to one application: messages per second of broker CPU, versions 3.1.1 and 5, beside bare aedes and mosquitto
 * in one run and in turns. 100 publishers over mutual TLS, one message for each write; one subscriber that gets all.
 *
 *   npm run bench -- fan-in [rounds] [messages a round]
 */
import { Bench } from './harness.ts'
import { compare } from './throughput.ts'

const rounds = Number(process.argv[2] ?? 5)
const messages = Number(process.argv[3] ?? 100_000)

await using bench = await Bench.start()
await compare(bench, {
  title: '100 publishers, 1 subscriber, 128 octets',
  publishers: await bench.devices(100, 'sensor', 'pub'),
  subscribers: await bench.devices(1, 'service', 'sub'),
  modes: [
    { name: 'QoS 0', qos: 0, granted: 0, wanted: 1.5 },
    { name: 'QoS 1, delivered at QoS 0', qos: 1, granted: 0, wanted: 1.2 },
    // The subscriber's acknowledgements hold the publishers up: fewer, or it takes long.
    { name: 'QoS 1, delivered at QoS 1', qos: 1, granted: 1, wanted: 1.2, messages: messages / 4 },
  ],
  underWay: 2_000,
  payloadBytes: 128,
  rounds,
  messages,
})
