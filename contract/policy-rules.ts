/** What one statement says about one topic filter. */
export type Rule = {
  /** Place of the statement in its document. */
  readonly order: number
  readonly statement: string
  readonly isDeny: boolean
  readonly maxQos: number
  readonly retain: boolean
}

type Node = {
  readonly children: Map<string, Node>
  plus: Node | undefined
  readonly ends: Rule[]
  readonly rest: Rule[]
}

/** Rules by the levels of their filters: what speaks for a topic is found in its own number of steps, however many there are. */
export class RuleTree {
  readonly #root = createNode()

  add(filter: string, rule: Rule): void {
    const levels = filter.split('/')
    const isOpen = levels.at(-1) === '#'
    if (isOpen) levels.pop()
    let node = this.#root
    for (const level of levels) {
      let next = level === '+' ? node.plus : node.children.get(level)
      if (next === undefined) {
        next = createNode()
        if (level === '+') node.plus = next
        else node.children.set(level, next)
      }
      node = next
    }
    ;(isOpen ? node.rest : node.ends).push(rule)
  }

  /**
   * @param text a topic name, or a topic filter
   * @returns the rules that match the name, or cover the filter whole, in the order of their statements
   */
  find(text: string): Rule[] {
    const found: Rule[] = []
    // No topic is empty [MQTT-4.7.3-1], so `#` matches what `+/#` does, and `/#` what `/+/#` does.
    if (text.startsWith('$')) collectLiterally(this.#root, text, found)
    else collect(this.#root, text === '#' || text === '/#' ? text.replace('#', '+/#') : text, 0, found)
    return found.length < 2 ? found : found.sort((a, b) => a.order - b.order)
  }
}

const createNode = (): Node => ({ children: new Map(), plus: undefined, ends: [], rest: [] })

/** [MQTT-4.7.2-1]: no wildcard at the beginning stands for a level that begins with `$`. */
function collectLiterally(root: Node, text: string, found: Rule[]): void {
  const slash = text.indexOf('/')
  const end = slash < 0 ? text.length : slash
  const child = root.children.get(text.slice(0, end))
  if (child !== undefined) collect(child, text, end + 1, found)
}

/** @param at where the next level begins; behind the end of the text there is none */
function collect(node: Node, text: string, at: number, found: Rule[]): void {
  for (const rule of node.rest) found.push(rule) // `a/#` matches `a` too (MQTT 4.7.1.2)
  if (at > text.length) {
    for (const rule of node.ends) found.push(rule)
    return
  }
  if (node.children.size === 0 && node.plus === undefined) return
  const slash = text.indexOf('/', at)
  const end = slash < 0 ? text.length : slash
  const level = text.slice(at, end)
  if (level === '#') return // nothing narrower than `#` covers it
  const child = node.children.get(level)
  if (child !== undefined) collect(child, text, end + 1, found)
  if (node.plus !== undefined) collect(node.plus, text, end + 1, found)
}
