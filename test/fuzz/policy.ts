/**
 * Random policies, principals and topics: what is compiled has to say what the naive reader of docs/policy.md says.
 *
 *   npm run fuzz -- policy [runs] [seed]
 */
import { compareWithReference } from '../harness/policy-reference.ts'

const runs = Number(process.argv[2] ?? 100_000)
const seed = Number(process.argv[3] ?? 2_026)
const started = performance.now()
const { allowed, denied } = compareWithReference(runs, seed)
const seconds = ((performance.now() - started) / 1_000).toFixed(1)
console.log(`${runs} policies, seed ${seed}: ${allowed} allowed and ${denied} denied as the page says, ${seconds} s`)
