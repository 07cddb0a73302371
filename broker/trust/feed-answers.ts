import { verdictQuery } from '../../contract/certificate-verdicts.ts'
import { denialQuery } from '../../contract/denials.ts'
import type { FromBroker, FromEnroll, QuestionKind, Questions } from '../../contract/feed.ts'
import { keyOrder, kickOrder, sessionQuery } from '../../contract/live-sessions.ts'

/** What a broker tells enroll when somebody asks there. */
export type FeedAnswers = { [K in QuestionKind]: (query: Questions[K]['query']) => Promise<Questions[K]['answer'][]> }

/** @throws ZodError for a question of another form */
export async function answerTo(asked: Extract<FromEnroll, { kind: 'ask' }>, answers: FeedAnswers): Promise<FromBroker> {
  const { id } = asked
  if ('denials' in asked) {
    return { kind: 'answer', id, denials: await answers.denials(denialQuery.parse(asked.denials)) }
  }
  if ('sessions' in asked) {
    return { kind: 'answer', id, sessions: await answers.sessions(sessionQuery.parse(asked.sessions)) }
  }
  if ('verdicts' in asked) {
    return { kind: 'answer', id, verdicts: await answers.verdicts(verdictQuery.parse(asked.verdicts)) }
  }
  if ('key' in asked) return { kind: 'answer', id, key: await answers.key(keyOrder.parse(asked.key)) }
  if ('reload' in asked) return { kind: 'answer', id, reload: await answers.reload({}) }
  return { kind: 'answer', id, kick: await answers.kick(kickOrder.parse(asked.kick)) }
}
