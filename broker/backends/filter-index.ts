type Node = { children: Map<string, Node>; clients: Map<string, number> }

const createNode = (): Node => ({ children: new Map(), clients: new Map() })

/** Stored subscriptions by topic: a tree of filter levels. */
export class FilterIndex {
  readonly #root = createNode()

  set(filter: string, clientId: string, qos: number): void {
    let node = this.#root
    for (const level of filter.split('/')) {
      let child = node.children.get(level)
      if (child === undefined) {
        child = createNode()
        node.children.set(level, child)
      }
      node = child
    }
    node.clients.set(clientId, qos)
  }

  delete(filter: string, clientId: string): void {
    const path: { node: Node; level: string }[] = []
    let node = this.#root
    for (const level of filter.split('/')) {
      const child = node.children.get(level)
      if (child === undefined) return
      path.push({ node, level })
      node = child
    }
    node.clients.delete(clientId)
    for (const { node: parent, level } of path.toReversed()) {
      const child = parent.children.get(level)!
      if (child.clients.size > 0 || child.children.size > 0) return
      parent.children.delete(level)
    }
  }

  /** @returns each client with a matching filter once, with the highest QoS it was granted; none for `$` topics */
  match(topic: string): Map<string, number> {
    const found = new Map<string, number>()
    if (!topic.startsWith('$')) collect(this.#root, topic.split('/'), 0, found)
    return found
  }
}

function collect(node: Node, levels: string[], depth: number, found: Map<string, number>): void {
  const rest = node.children.get('#')
  if (rest !== undefined) add(rest, found) // 'a/#' matches 'a' too [MQTT-4.7.1-2]
  if (depth === levels.length) {
    add(node, found)
    return
  }
  for (const level of [levels[depth]!, '+']) {
    const child = node.children.get(level)
    if (child !== undefined) collect(child, levels, depth + 1, found)
  }
}

function add(node: Node, found: Map<string, number>): void {
  for (const [clientId, qos] of node.clients) found.set(clientId, Math.max(qos, found.get(clientId) ?? 0))
}
