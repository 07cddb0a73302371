/** Who asked for a change, and under which id: the same id has one effect. */
export type Asked = {
  actor: string
  remoteAddress: string
  requestId: string
  /** Of what was asked, where the asker chose the id: another request under the same id is refused, not taken for done. */
  digest?: string | undefined
  /** Revision of the thing that is to be changed, as the asker has seen it: of another it is not changed. */
  ifMatch?: number | undefined
  now: Date
}
