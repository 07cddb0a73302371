import { credentialKeyRace, hardwareRace, verbRaces, watchedKeyRace } from '../../suites/verb-races.ts'

// More of it: npm run long.
verbRaces(5)
watchedKeyRace()
credentialKeyRace()
hardwareRace()
