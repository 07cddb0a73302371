import { isDeepStrictEqual } from 'node:util'
import type { Configuration, EvidenceKind, LabelConfiguration } from '../../contract/configuration.ts'
import { type Purge, purgeKinds } from '../../contract/feed.ts'
import { didYouMean } from '../../contract/near-names.ts'
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
  /** what becomes of what a device has published when it is revoked */
  onRevoke: Readonly<{ [K in keyof Purge]?: 'purge' | 'keep' | undefined }>
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

type Configured = Pick<Configuration, 'profiles' | 'labels'>
type InForce = { profiles: ReadonlyMap<string, EnrollmentProfile>; labels: ReadonlyMap<string, Label> }

/** Profiles and labels as configured, and what the files say that they name. Others can take their place at any time. */
export class Profiles {
  #inForce: InForce

  constructor(config: Configured) {
    this.#inForce = read(config)
  }

  /**
   * Reads others; nothing has changed before `put` is called.
   *
   * @returns what differs, as `profile camera` or `label line-1`
   * @throws FleetError `config_invalid` when a file that they name cannot be used
   */
  prepare(config: Configured): { changed: string[]; put: () => void } {
    const next = read(config)
    const { profiles, labels } = this.#inForce
    const changed = [
      ...differing(profiles, next.profiles).map((name) => `profile ${name}`),
      ...differing(labels, next.labels).map((name) => `label ${name}`),
    ]
    return {
      changed,
      put: () => {
        this.#inForce = next
      },
    }
  }

  /** @throws FleetError `profile_unknown` */
  getProfile(name: string): EnrollmentProfile {
    const profile = this.#inForce.profiles.get(name)
    if (profile) return profile
    const known = [...this.#inForce.profiles.keys()]
    throw new FleetError(
      'profile_unknown',
      `there is no profile ${name}; known: ${known.join(', ')}${didYouMean(name, known)}`,
    )
  }

  /** What of a device's messages its revocation makes void. A thief's are worth nothing; those of an old meter are data. */
  purged(name: string, isStolen: boolean): (keyof Purge)[] {
    const { onRevoke = {} } = this.#inForce.profiles.get(name) ?? {}
    return purgeKinds.filter((kind) => (onRevoke[kind] ?? (isStolen ? 'purge' : 'keep')) === 'purge')
  }

  /** Whether a request under this label may need a channel binding, whoever asks. */
  mayNeedChannelBinding({ profile }: Label): boolean {
    const possible = profile === undefined ? [...this.#inForce.profiles.values()] : [profile]
    return possible.some(({ channelBinding }) => channelBinding === 'required')
  }

  /** Whose certificates a device may have to choose from in the handshake, beside our own. */
  get clientAuthorities(): Buffer[] {
    return [...this.#inForce.labels.values()].flatMap(({ factory, claim }) =>
      [...(factory?.authorities ?? []), ...(claim?.authorities ?? [])].map(({ der }) => der),
    )
  }

  findLabel(name: string): Label | undefined {
    return this.#inForce.labels.get(name)
  }
}

function read(config: Configured): InForce {
  const profiles = new Map(
    Object.entries(config.profiles).map(([name, profile]) => [name, enrollmentProfile(name, profile)]),
  )
  const labels = Object.entries({ [defaultLabel]: {}, ...config.labels }).map(
    ([name, { profile, factory, claim }]: [string, Partial<LabelConfiguration>]): [string, Label] => [
      name,
      {
        name,
        // The schema has seen to it that there is one of that name.
        profile: profile === undefined ? undefined : profiles.get(profile)!,
        factory: factory && readFactoryTrust(factory, `labels.${name}.factory`),
        claim: claim && readClaimTrust(claim, `labels.${name}.claim`),
      },
    ],
  )
  return { profiles, labels: new Map(labels) }
}

function differing<T>(before: ReadonlyMap<string, T>, after: ReadonlyMap<string, T>): string[] {
  const names = new Set([...before.keys(), ...after.keys()])
  return [...names].filter((name) => !isDeepStrictEqual(before.get(name), after.get(name)))
}

function enrollmentProfile(name: string, profile: Configuration['profiles'][string]): EnrollmentProfile {
  const { validityDays, organization, evidence, keyTypes, channelBinding, serverKeygen, onRevoke } = profile
  return {
    name,
    validityMs: validityDays * 86_400_000,
    extendedKeyUsage: ['clientAuth'],
    ...(organization === undefined ? {} : { organization }),
    evidence,
    keyTypes,
    channelBinding,
    serverKeygen,
    onRevoke,
    // A key can be sent only to who may decrypt.
    receivesKeys: serverKeygen !== 'off',
  }
}
