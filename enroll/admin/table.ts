/** Everything that the admin API can be asked: who may, what it takes and what it answers stands in each row. */
import { apiTokenRoutes } from './api-tokens.ts'
import { approvalRoutes } from './approvals.ts'
import { auditRoutes } from './audit.ts'
import { authorityRoute } from './authorities.ts'
import { backupRoute } from './backup.ts'
import { batchRoutes } from './batches.ts'
import { brokerRoutes } from './brokers.ts'
import { credentialRoutes } from './credentials.ts'
import { crlRoutes } from './crls.ts'
import { denialRoutes } from './denials.ts'
import { deviceRoutes } from './devices.ts'
import { eventRoutes } from './events.ts'
import { incidentRoutes } from './incidents.ts'
import { issuanceRoutes } from './issuance.ts'
import { lateRenewalRoutes } from './late-renewals.ts'
import { described } from './openapi.ts'
import { operatorRoutes } from './operators.ts'
import type { Route } from './route.ts'
import { sessionRoutes } from './sessions.ts'
import { reloadRoute, statusRoute } from './status.ts'
import { verifyRoute } from './verify.ts'

export const routes: readonly Route[] = described([
  statusRoute,
  reloadRoute,
  ...apiTokenRoutes,
  ...approvalRoutes,
  ...auditRoutes,
  authorityRoute,
  backupRoute,
  ...batchRoutes,
  ...brokerRoutes,
  ...credentialRoutes,
  ...crlRoutes,
  ...denialRoutes,
  ...deviceRoutes,
  ...eventRoutes,
  ...incidentRoutes,
  ...issuanceRoutes,
  ...lateRenewalRoutes,
  ...operatorRoutes,
  ...sessionRoutes,
  verifyRoute,
])
