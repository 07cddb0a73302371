import { type AuthorityView, authorityList } from '../../contract/authority-api.ts'
import { parseCertificate, parsePem } from '../../pki/certificate.ts'
import { formatName } from '../../pki/names.ts'
import { route } from './route.ts'

export const authorityRoute = route({
  method: 'GET',
  path: '/v1/authorities',
  role: 'viewer',
  summary: 'The CAs of this gateway',
  answer: authorityList,
  handle: async (_input, { anchors, issuing }) => ({
    items: [shown('root', anchors[0]!), shown('issuing', issuing.pem)],
  }),
})

function shown(name: AuthorityView['name'], pem: string): AuthorityView {
  const { subject, serial, fingerprint, notBefore, notAfter } = parseCertificate(parsePem(pem, 'CERTIFICATE')[0]!)
  return {
    ...{ name, subject: formatName(subject), serial, fingerprint, pem },
    ...{ notBefore: notBefore.toISOString(), notAfter: notAfter.toISOString() },
  }
}
