/** Values by topic filter, found by topic: a tree of filter levels. A look-up allocates nothing. */

export type FilterNode<T> = {
  /** undefined on the way to deeper filters */
  value: T | undefined
  readonly parent: FilterNode<T> | undefined
  readonly level: string
  readonly hash: number
  /** The one literal level below, as most nodes have it: a Map for it would cost a look-up more time than the rest. */
  only: FilterNode<T> | undefined
  /** Otherwise literal levels by hash; those of equal hash are chained by `sibling`. */
  children: Map<number, FilterNode<T>> | undefined
  sibling: FilterNode<T> | undefined
  plus: FilterNode<T> | undefined
  rest: FilterNode<T> | undefined
}

const slash = 0x2f
const dollar = 0x24
const prime = 0x0100_0193

/** Filters are taken to be well formed (contract/topics.ts), which also bounds their depth. */
export class FilterTree<T> {
  readonly #seed: number
  readonly #root: FilterNode<T>
  #nodes = 0

  // The text that was read last: where its levels begin and what they hash to.
  #text = ''
  #levels = 0
  readonly #hashes: number[] = []
  readonly #starts: number[] = []

  /** @param seed any 32 bits that a client cannot know, who would otherwise choose filters that collide */
  constructor(seed: number) {
    this.#seed = seed | 0
    this.#root = this.#createNode('', 0, undefined)
  }

  /** The root included. */
  get nodes(): number {
    return this.#nodes
  }

  /** Takes a topic or filter apart for the call that follows. @returns a hash of the whole */
  read(text: string): number {
    const hashes = this.#hashes
    const starts = this.#starts
    let whole = this.#seed
    let level = this.#seed
    let count = 0
    starts[0] = 0
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i)
      if (code === slash) {
        hashes[count++] = level
        starts[count] = i + 1
        whole = Math.imul(whole ^ level, prime)
        level = this.#seed
      } else level = Math.imul(level ^ code, prime)
    }
    hashes[count++] = level
    starts[count] = text.length + 1
    this.#text = text
    this.#levels = count
    whole = Math.imul(whole ^ level, prime)
    return whole ^ (whole >>> 15) // a product's low bits know little of the high ones
  }

  /** Adds to `found` the value of each filter that matches the topic that was read. */
  collect(found: T[]): void {
    // [MQTT-4.7.2-1]: a filter that begins with a wildcard does not match a topic that begins with `$`.
    this.#collect(this.#root, 0, this.#text.charCodeAt(0) !== dollar, found)
  }

  /** The node of the filter that was read, made where it is missing; one that gets no value is to be released. */
  getNode(): FilterNode<T> {
    let node = this.#root
    for (let at = 0; at < this.#levels; at++) {
      const level = this.#text.slice(this.#starts[at]!, this.#starts[at + 1]! - 1)
      if (level === '#') node = node.rest ??= this.#createNode(level, 0, node)
      else if (level === '+') node = node.plus ??= this.#createNode(level, 0, node)
      else node = this.#findChild(node, at) ?? this.#addChild(node, level, this.#hashes[at]!)
    }
    return node
  }

  /** Takes out the node, and those above it, if nothing hangs on it any more. */
  release(from: FilterNode<T>): void {
    let node = from
    while (node.parent !== undefined && isBare(node)) {
      const { parent } = node
      if (parent.rest === node) parent.rest = undefined
      else if (parent.plus === node) parent.plus = undefined
      else dropChild(parent, node)
      this.#nodes--
      node = parent
    }
  }

  #collect(node: FilterNode<T>, at: number, withWildcards: boolean, found: T[]): void {
    // 4.7.1.2: `#` stands for the parent level too.
    if (withWildcards && node.rest?.value !== undefined) found.push(node.rest.value)
    if (at === this.#levels) {
      if (node.value !== undefined) found.push(node.value)
      return
    }
    const child = this.#findChild(node, at)
    if (child !== undefined) this.#collect(child, at + 1, true, found)
    if (withWildcards && node.plus !== undefined) this.#collect(node.plus, at + 1, true, found)
  }

  #findChild(node: FilterNode<T>, at: number): FilterNode<T> | undefined {
    const hash = this.#hashes[at]!
    let child = node.only ?? node.children?.get(hash)
    if (child === undefined || child.hash !== hash) return undefined
    const start = this.#starts[at]!
    const length = this.#starts[at + 1]! - 1 - start
    while (child !== undefined && !(child.level.length === length && this.#text.startsWith(child.level, start)))
      child = child.sibling
    return child
  }

  #addChild(parent: FilterNode<T>, level: string, hash: number): FilterNode<T> {
    const child = this.#createNode(level, hash, parent)
    if (parent.only === undefined && parent.children === undefined) {
      parent.only = child
      return child
    }
    if (parent.only !== undefined) {
      parent.children = new Map([[parent.only.hash, parent.only]])
      parent.only = undefined
    }
    child.sibling = parent.children!.get(hash)
    parent.children!.set(hash, child)
    return child
  }

  #createNode(level: string, hash: number, parent: FilterNode<T> | undefined): FilterNode<T> {
    this.#nodes++
    return {
      value: undefined,
      parent,
      level,
      hash,
      only: undefined,
      children: undefined,
      sibling: undefined,
      plus: undefined,
      rest: undefined,
    }
  }
}

const isBare = ({ value, only, children, plus, rest }: FilterNode<unknown>): boolean =>
  (value ?? only ?? children ?? plus ?? rest) === undefined

function dropChild<T>(parent: FilterNode<T>, child: FilterNode<T>): void {
  if (parent.only === child) {
    parent.only = undefined
    return
  }
  const children = parent.children!
  const first = children.get(child.hash)!
  if (first !== child) {
    let before = first
    while (before.sibling !== child) before = before.sibling!
    before.sibling = child.sibling
  } else if (child.sibling !== undefined) children.set(child.hash, child.sibling)
  else children.delete(child.hash)
  if (children.size > 1) return
  const [last] = children.values()
  if (last!.sibling !== undefined) return
  parent.children = undefined
  parent.only = last
}
