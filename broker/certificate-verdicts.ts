import { X509Certificate } from 'node:crypto'
import { reportBounds } from '../contract/broker-reports.ts'
import { type ListenerVerdict, listenersAtMost, type VerdictQuery } from '../contract/certificate-verdicts.ts'
import { explainDenial } from '../contract/denial-explain.ts'
import type { PolicyDocument } from '../contract/policy-document.ts'
import type { ProblemCode } from '../contract/problems.ts'
import { factsOfCertificate } from '../pki/principal-facts.ts'
import { bounded, factsShown } from './denials.ts'
import type { Entrances } from './entrances.ts'
import type { Foreseen } from './gate.ts'

type World = { entrances: Pick<Entrances, 'foresee'>; document: PolicyDocument; now: Date }

/** What every listener would do with a certificate that it has not been shown. */
export async function foretold({ certificates }: VerdictQuery, world: World): Promise<ListenerVerdict[]> {
  const [leaf, ...above] = certificates.map((text) => new X509Certificate(Buffer.from(text, 'base64')))
  const foreseen = await world.entrances.foresee([leaf!, ...above])
  return foreseen.slice(0, listenersAtMost).map((one) => shown(one, world))
}

function shown({ verdict, rules, conditions }: Foreseen, { document, now }: World): ListenerVerdict {
  const { listener, state, action, policy, cause, deviceId, authority, until } = verdict
  const message = verdict.message.slice(0, reportBounds.detail)
  const fix = cause === undefined ? undefined : fixOf({ ...verdict, cause }, document, now)
  const password = rules.secondFactor === undefined ? [] : ['a password']
  const stated = conditions.map(({ statement }) => `time and address as the policy statement ${statement} wants them`)
  return {
    ...{ listener, state, action, isAdmitted: policy === 'normal' },
    ...(cause === undefined ? {} : { code: cause, message }),
    ...(fix === undefined ? {} : { fix }),
    ...(deviceId === undefined ? {} : { deviceId }),
    ...(authority === undefined ? {} : { authority }),
    ...(until === undefined ? {} : { until: until.toISOString() }),
    asks: [...password, ...stated].slice(0, 50),
  }
}

function fixOf(
  { listener, state, action, cause, message, deviceId, certificate }: Foreseen['verdict'] & { cause: ProblemCode },
  document: PolicyDocument,
  now: Date,
): ListenerVerdict['fix'] {
  const about = { listener, state, action, cause, message, firstAt: now.toISOString(), stage: 'connect' } as const
  const { fix } = explainDenial(
    {
      ...about,
      ...(deviceId === undefined ? {} : { deviceId }),
      ...(certificate === undefined ? {} : { certificate: factsShown(certificate) }),
      variables: certificate === undefined ? {} : bounded(factsOfCertificate(certificate)),
    },
    document,
  )
  return fix
}
