/** Commits without end and says which commits were acknowledged; its parent kills it. */
import { openDatabase } from '../../../enroll/registry/database.ts'
import { Registry } from '../../../enroll/registry/registry.ts'
import { say } from '../../harness/say.ts'
import { creation, device } from '../../suites/registry.ts'

const [folder, name] = process.argv.slice(2)
const registry = new Registry(await openDatabase(folder!))
let last = 0

async function run(): Promise<never> {
  for (;;) {
    const id = `${name}-${last++}`
    const { feedSeq } = await registry.commit(creation(device(id, { groups: ['g'] })))
    say(`${id} ${feedSeq}`)
  }
}

await Promise.all(Array.from({ length: 8 }, run))
