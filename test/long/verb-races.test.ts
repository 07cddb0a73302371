import { verbRaces } from '../suites/verb-races.ts'

verbRaces(100)
