// It awaits at its top: a suite whose file is the first to load it is over before its tests are known.
import '../pki/hierarchy.ts'
import { together } from './together.ts'

together(import.meta.filename)
