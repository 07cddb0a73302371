import { crashJourneys } from './crash.ts'

// More of it: npm run long.
crashJourneys(1)
