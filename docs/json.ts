import type { z } from 'zod'
import {
  allowanceView,
  approvalView,
  certificateReceipt,
  certificateView,
  deviceView,
  holdReceipt,
  policyView,
  revocationReceipt,
  statusView,
  theftReceipt,
  tokenView,
} from '../contract/admin-api.ts'
import { auditView } from '../contract/audit-api.ts'
import { bulkReceipt } from '../contract/bulk-api.ts'
import { credentialReceipt } from '../contract/credential-api.ts'
import { crlView, publishReceipt } from '../contract/crl-api.ts'
import { denialView } from '../contract/denials.ts'
import { incidentView } from '../contract/incidents.ts'
import { lateRenewalView } from '../contract/late-renewal-api.ts'
import { reloadReceipt } from '../contract/reload-api.ts'
import { kickReceipt, sessionView } from '../contract/session-api.ts'
import { verificationView } from '../contract/verify-api.ts'
import { fields, printedBy, shapeOf } from './printing.ts'

export function jsonPage(): string {
  const shapes: [string, z.ZodType, string][] = [
    [
      'device',
      deviceView,
      '`device show`, `device create`, `device set`, whose `--dry-run` gives `{ id, before, after }` with two of them; `device ls` gives `{ "items": [device, …] }`',
    ],
    ['allowance', allowanceView, '`device allow ls`, as `{ "items": [allowance, …] }`'],
    ['token', tokenView, '`token create`'],
    [
      'late renewal',
      lateRenewalView,
      '`enroll allow-late`, `--withdraw`; `--list` gives `{ "items": [late renewal, …] }`',
    ],
    [
      'approval',
      approvalView,
      '`enroll approvals show`, `approve`, `deny`; `enroll approvals ls` gives `{ "items": [approval, …] }`',
    ],
    ['certificate', certificateView, '`cert show`; `cert ls` gives `{ "items": [certificate, …] }`, without `pem`'],
    ['verification', verificationView, '`cert verify`, also where it is refused and the exit code is 3'],
    ['receipt', revocationReceipt, '`device revoke`'],
    ['theft receipt', theftReceipt, '`device stolen`'],
    ['certificate receipt', certificateReceipt, '`cert revoke` of a certificate of a device'],
    ['credential receipt', credentialReceipt, '`cert revoke` of a certificate of an operator or a broker'],
    ['incident', incidentView, '`incident show`, `incident close`; `incident ls` gives `{ "items": [incident, …] }`'],
    [
      'bulk receipt',
      bulkReceipt,
      '`device revoke|disable|enable|stolen` with a selection, which adds `verb`, `selected` and how many were `done`, `already` so and `refused`',
    ],
    ['hold receipt', holdReceipt, '`device disable`, `device enable`'],
    [
      'session',
      sessionView,
      'as `{ "items": [session, …], "unheard": [{ "broker", "why" }, …] }` by `session ls` and `session show`, and as `sessions` beside `devices`, `unheard` and `outcomes` (as `devices` of a bulk receipt) by `device revoke|disable|enable|stolen --dry-run`; `why` is `not_connected`, `not_asked` (of a version that does not know the question) or `no_answer`',
    ],
    ['kick receipt', kickReceipt, '`session kick`'],
    ['revocation list', crlView, '`crl show`; `crl ls` gives `{ "items": [revocation list, …] }`'],
    ['publish receipt', publishReceipt, '`crl publish`'],
    ['policy', policyView, '`policy show`, `policy apply`'],
    ['denial', denialView, '`explain`; `denial ls` gives `{ "items": [denial, …], "unheard": [broker, …] }`'],
    [
      'audit entry',
      auditView,
      '`audit tail`, one object a line, and `audit show`, as `items`; `details` differ by action',
    ],
    ['status', statusView, '`status`'],
    ['reload receipt', reloadReceipt, '`config reload`'],
  ]
  const section = ([name, view, given]: (typeof shapes)[number]): string => `## ${name}
Given by ${given}.

| field | type | |
|---|---|---|
${fields(shapeOf(view), '').join('\n')}
`
  return `${printedBy}
# JSON output

Every command takes \`-o json\` and prints one JSON document on standard output, indented by two; \`audit tail\` prints one object a line. The admin
API answers with the same shapes. Fields are added, never renamed or given another meaning; one that does not apply is left out. Times are
ISO 8601 in UTC. A failure prints nothing on standard output: standard error has
\`{ "error": { "code", "detail" } }\`, and the exit code is 1, 2 or 3.
\`enroll\` gives \`{ device, folder, certificate, expires }\`, \`renew\` the same with \`due\` and \`renewed\`, \`device allow\` gives \`{ added, known }\`, \`device allow rm\` \`{ removed, unknown }\`.
\`broker ls\` gives the list of \`status\` as \`{ "items": [ … ] }\`, \`policy check\` gives \`{ ok, file, statements, faults }\`, \`demo\` gives \`{ ok, steps: [{ name, title, ok, detail, ms, measured }] }\`.

${shapes.map(section).join('\n')}`
}
