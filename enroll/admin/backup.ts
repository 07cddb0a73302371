import { z } from 'zod'
import { createBackup as backupBody } from '../../contract/backup.ts'
import { createBackup } from '../backup.ts'
import { route } from './route.ts'
import { version } from './status.ts'

export const backupRoute = route({
  method: 'POST',
  path: '/v1/backups',
  role: 'admin',
  summary: 'A backup, sealed with the key that is given',
  answer: z.custom<AsyncIterable<Buffer>>(),
  media: 'application/octet-stream',
  problems: ['conflict'],
  body: backupBody,
  handle: ({ body, asked }, context) => createBackup({ ...context, version }, Buffer.from(body.key, 'base64'), asked),
})
