/** What one look has shown. `fix` is what to do or to type, where there is something. */
export type Finding = { check: string; state: 'ok' | 'warn' | 'fail'; what: string; fix?: string }

export const ok = (check: string, what: string): Finding => ({ check, state: 'ok', what })
export const warn = (check: string, what: string, fix: string): Finding => ({ check, state: 'warn', what, fix })
export const fail = (check: string, what: string, fix: string): Finding => ({ check, state: 'fail', what, fix })

const dayMs = 86_400_000

const ofGateway = {
  expired: 'restart the gateway: it makes a new one',
  expiring: 'it ought to have been renewed: look into the log of enroll, then restart the gateway',
}

/** Those of the gateway are renewed with a third of their life left, so one with less than a quarter was not. */
export function validity(
  check: string,
  name: string,
  life: { notBefore: Date; notAfter: Date },
  now: Date,
  fix = ofGateway,
): Finding {
  const { notBefore, notAfter } = life
  const leftMs = notAfter.getTime() - now.getTime()
  const days = `${Math.floor(leftMs / dayMs)} days left`
  const until = `until ${notAfter.toISOString()}`
  if (now < notBefore) {
    const sentence = `${name} is valid from ${notBefore.toISOString()}, and it is ${now.toISOString()} here`
    return fail(check, sentence, 'set the clock of this machine')
  }
  if (leftMs <= 0) return fail(check, `${name} has expired: it was valid ${until}`, fix.expired)
  if (leftMs < (notAfter.getTime() - notBefore.getTime()) / 4) {
    return warn(check, `${name} is valid ${until}, ${days}`, fix.expiring)
  }
  return ok(check, `${name} is valid ${until}, ${days}`)
}
