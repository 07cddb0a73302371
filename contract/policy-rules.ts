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
  readonly level: string
  /** The one literal level below, as most nodes have it. There is a tree for each connection: Maps would be most of it. */
  only: Node | undefined
  /** Otherwise all of them. */
  children: Map<string, Node> | undefined
  plus: Node | undefined
  ends: Rule[] | undefined
  rest: Rule[] | undefined
}

/** Rules by the levels of their filters: what speaks for a topic is found in its own number of steps, however many there are. */
export class RuleTree {
  readonly #root = createNode('')

  add(filter: string, rule: Rule): void {
    const levels = filter.split('/')
    const isOpen = levels.at(-1) === '#'
    if (isOpen) levels.pop()
    let node = this.#root
    for (const level of levels) {
      if (level === '+') node = node.plus ??= createNode(level)
      else node = findChild(node, level) ?? addChild(node, level)
    }
    const place = isOpen ? 'rest' : 'ends'
    const rules = node[place]
    if (rules === undefined) node[place] = [rule]
    else rules.push(rule)
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

const createNode = (level: string): Node => ({
  level,
  only: undefined,
  children: undefined,
  plus: undefined,
  ends: undefined,
  rest: undefined,
})

const findChild = ({ only, children }: Node, level: string): Node | undefined =>
  only?.level === level ? only : children?.get(level)

function addChild(node: Node, level: string): Node {
  const child = createNode(level)
  if (node.only === undefined && node.children === undefined) {
    node.only = child
    return child
  }
  node.children ??= new Map(node.only && [[node.only.level, node.only]])
  node.children.set(level, child)
  node.only = undefined
  return child
}

/** [MQTT-4.7.2-1]: no wildcard at the beginning stands for a level that begins with `$`. */
function collectLiterally(root: Node, text: string, found: Rule[]): void {
  const slash = text.indexOf('/')
  const end = slash < 0 ? text.length : slash
  const child = findChild(root, text.slice(0, end))
  if (child !== undefined) collect(child, text, end + 1, found)
}

/** @param at where the next level begins; behind the end of the text there is none */
function collect(node: Node, text: string, at: number, found: Rule[]): void {
  if (node.rest !== undefined) found.push(...node.rest) // `a/#` matches `a` too (MQTT 4.7.1.2)
  if (at > text.length) {
    if (node.ends !== undefined) found.push(...node.ends)
    return
  }
  if (node.only === undefined && node.children === undefined && node.plus === undefined) return
  const slash = text.indexOf('/', at)
  const end = slash < 0 ? text.length : slash
  const level = text.slice(at, end)
  if (level === '#') return // nothing narrower than `#` covers it
  const child = findChild(node, level)
  if (child !== undefined) collect(child, text, end + 1, found)
  if (node.plus !== undefined) collect(node.plus, text, end + 1, found)
}
