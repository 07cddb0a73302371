import type { Configuration, EvidenceKind, LabelConfiguration } from '../../contract/configuration.ts'
import type { CertificateProfile } from '../../pki/profile.ts'
import type { KeyType } from '../../pki/public-key.ts'
import { FleetError } from '../../runtime/errors.ts'
import { type ClaimTrust, readClaimTrust } from './claim-certificate.ts'
import { type FactoryTrust, readFactoryTrust } from './factory-certificate.ts'

/** What a device's certificate will say, and what is asked of the device for it. */
export type EnrollmentProfile = CertificateProfile & {
  /** what a first enrollment needs, all of it */
  evidence: readonly EvidenceKind[]
  /** the preferred one first */
  keyTypes: readonly KeyType[]
  /** whether a request has to name the TLS connection it comes over (RFC 7030 3.5); what it names is checked always */
  channelBinding: 'optional' | 'required'
  /** whether we make keys for devices (RFC 7030 4.4), and whether they may go out with no protection but TLS */
  serverKeygen: 'off' | 'encrypted' | 'clear'
}

/** A path of its own for devices of one kind (RFC 7030 3.2.2). */
export type Label = {
  name: string
  /** the only profile that is enrolled here; without it each device has its own */
  profile: EnrollmentProfile | undefined
  factory: FactoryTrust | undefined
  claim: ClaimTrust | undefined
}

/** The label of the path that names none, and of certificates from before there were labels. */
export const defaultLabel = 'default'

/** Profiles and labels as configured, and the files they name, read once at the start. */
export class Profiles {
  readonly #profiles: ReadonlyMap<string, EnrollmentProfile>
  readonly #labels: ReadonlyMap<string, Label>

  constructor(config: Pick<Configuration, 'profiles' | 'labels'>) {
    const profiles = Object.entries(config.profiles).map(([name, profile]) => enrollmentProfile(name, profile))
    this.#profiles = new Map(profiles.map((profile) => [profile.name, profile]))
    const labels = Object.entries({ [defaultLabel]: {}, ...config.labels })
    this.#labels = new Map(
      labels.map(([name, { profile, factory, claim }]: [string, Partial<LabelConfiguration>]) => [
        name,
        {
          name,
          profile: profile === undefined ? undefined : this.getProfile(profile),
          factory: factory && readFactoryTrust(factory, `labels.${name}.factory`),
          claim: claim && readClaimTrust(claim, `labels.${name}.claim`),
        },
      ]),
    )
  }

  /** @throws FleetError `profile_unknown` */
  getProfile(name: string): EnrollmentProfile {
    const profile = this.#profiles.get(name)
    if (profile) return profile
    const known = [...this.#profiles.keys()].join(', ')
    throw new FleetError('profile_unknown', `there is no profile ${name}; known: ${known}`)
  }

  /** Whether a request under this label may need a channel binding, whoever asks. */
  mayNeedChannelBinding({ profile }: Label): boolean {
    const possible = profile === undefined ? [...this.#profiles.values()] : [profile]
    return possible.some(({ channelBinding }) => channelBinding === 'required')
  }

  /** Whose certificates a device may have to choose from in the handshake, beside our own. */
  get clientAuthorities(): Buffer[] {
    return [...this.#labels.values()].flatMap(({ factory, claim }) =>
      [...(factory?.authorities ?? []), ...(claim?.authorities ?? [])].map(({ der }) => der),
    )
  }

  findLabel(name: string): Label | undefined {
    return this.#labels.get(name)
  }
}

function enrollmentProfile(name: string, profile: Configuration['profiles'][string]): EnrollmentProfile {
  const { validityDays, organization, evidence, keyTypes, channelBinding, serverKeygen } = profile
  return {
    name,
    validityMs: validityDays * 86_400_000,
    extendedKeyUsage: ['clientAuth'],
    ...(organization === undefined ? {} : { organization }),
    evidence,
    keyTypes,
    channelBinding,
    serverKeygen,
    // A key can be sent only to who may decrypt.
    receivesKeys: serverKeygen !== 'off',
  }
}
