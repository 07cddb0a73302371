import { crashJourneys } from '../journeys/crash.ts'

crashJourneys(5)
