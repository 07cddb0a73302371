import type { Acceptance, LinkLimits } from './link-events.ts'
import type { Properties } from './properties.ts'

type Terms = Properties & Required<Pick<Properties, 'receiveMaximum' | 'maximumPacketSize' | 'topicAliasMaximum'>>

/** What a connection may do, as a CONNACK says it and as it holds for versions that have no words for it. */
export function termsOf(limits: LinkLimits, acceptance: Acceptance, asked: Properties): Terms {
  const terms: Terms = {
    receiveMaximum: limits.receiveMaximum,
    maximumPacketSize: limits.maxPacketBytes,
    topicAliasMaximum: limits.topicAliasMaximum,
    sharedSubscriptionAvailable: true,
    ...acceptance.properties,
  }
  if (terms.maximumQos === 2) delete terms.maximumQos // 3.2.2.3.4: said by leaving it out
  if (!asked.requestResponseInformation) delete terms.responseInformation // [MQTT-3.1.2-28]
  if (acceptance.assignedClientId !== undefined) terms.assignedClientIdentifier = acceptance.assignedClientId
  if (acceptance.serverKeepAlive !== undefined) terms.serverKeepAlive = acceptance.serverKeepAlive
  return terms
}
