import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { type Beside, type Clone, Clones, placeOf, type Sites } from '../../broker/clones.ts'
import { parseNetwork } from '../../contract/networks.ts'

const second = 1_000
const minute = 60 * second
const home = '198.51.100.7'
const abroad = '203.0.113.9'

/** A broker that sees connections of one key come and go. */
class World {
  readonly clones = new Clones<string>(10 * second)
  readonly sites: Sites
  now = 0
  verdicts: Clone<string>[] = []
  beside: string[] = []

  constructor(...site: string[]) {
    this.sites = new Map([['site', site.map((text) => parseNetwork(text)!)]])
  }

  after(ms: number): this {
    this.now += ms
    return this
  }

  come(id: string, address: string, clientId = 'cam-1'): this {
    const place = placeOf(address, this.sites)
    return this.#keep(this.clones.arrived({ key: 'k', id, clientId, place, at: this.now }))
  }

  /** Another broker has somebody with the key. */
  elsewhere(address: string, isEarlier = false): this {
    const place = placeOf(address, this.sites)
    this.clones.elsewhere({ key: 'k', broker: 'broker-2', place, isEarlier, at: this.now })
    return this
  }

  /** Somebody comes to another broker for this client id. @returns who yields here */
  yieldTo(address: string, clientId = 'cam-1'): string | undefined {
    const rival = this.clones.rivalOf({ key: 'k', clientId, place: placeOf(address, this.sites), toldAt: this.now })
    if (rival !== undefined) this.clones.yields(rival, { broker: 'broker-2', at: this.now })
    return rival
  }

  hear(...ids: string[]): this {
    for (const id of ids) this.#keep(this.clones.heard(id, this.now))
    return this
  }

  lose(...ids: string[]): this {
    for (const id of ids) this.clones.gone(id)
    return this
  }

  /** It was taken over, and its peer closes its end. */
  yield(id: string): this {
    return this.after(30).hear(id).lose(id)
  }

  get rules(): string[] {
    return this.verdicts.map(({ rule }) => rule)
  }

  #keep(verdict: Clone<string> | Beside<string> | undefined): this {
    if (verdict === undefined) return this
    if ('first' in verdict) this.verdicts.push(verdict)
    else this.beside.push(`${verdict.contact.id} ${verdict.rule === 'back' ? 'back from ' : ''}${verdict.broker}`)
    return this
  }
}

suite('one key in two places is seen', () => {
  test('at the second takeover, before it happens, where the loser was there and comes back', () => {
    const world = new World()
    world.come('a', home).after(minute).come('b', abroad).yield('a').after(second)
    assert.deepEqual(world.rules, [])
    world.come('a2', home)
    assert.deepEqual(world.rules, ['duel'])
    const { first, second: other, open } = world.verdicts[0]!
    assert.deepEqual([first.id, first.place.spot, other.id, other.place.spot], ['b', abroad, 'a2', home])
    assert.deepEqual(open, ['b'])
  })

  test('when two places are there, and heard, for longer than a change of networks takes', () => {
    const world = new World().come('a', home, 'cam-1:a').after(second).come('b', abroad, 'cam-1:b')
    for (let i = 0; i < 9; i++) world.after(second).hear('a', 'b')
    assert.deepEqual(world.rules, [])
    world.after(second).hear('a')
    assert.deepEqual(world.rules, [])
    world.hear('b')
    assert.deepEqual(world.rules, ['overlap'])
    assert.deepEqual(world.verdicts[0]!.open, ['a', 'b'])
  })

  test('when they come in turns, each before the other has gone', () => {
    const world = new World().come('0', home)
    for (let turn = 1; turn <= 4; turn++) {
      assert.deepEqual(world.rules, [])
      world
        .after(minute)
        .come(String(turn), turn % 2 ? abroad : home)
        .yield(String(turn - 1))
    }
    assert.deepEqual(world.rules, ['crossing'])
  })

  test('once: what a verdict was given about is forgotten', () => {
    const world = new World().come('a', home).come('b', abroad).yield('a').come('a2', home)
    world.after(second).hear('b').lose('b').come('b2', abroad).after(second).hear('b2')
    assert.deepEqual(world.rules, ['duel'])
  })

  test('of neighbours in a private network too', () => {
    const world = new World().come('a', '192.168.1.7').come('b', '192.168.1.8').yield('a').come('a2', '192.168.1.7')
    assert.deepEqual(world.rules, ['duel'])
  })
})

suite('it is quiet', () => {
  const quiet = (name: string, play: (world: World) => void, world = new World()): void => {
    test(name, () => {
      play(world)
      assert.deepEqual(world.rules, [])
    })
  }

  quiet('when NAT gives the client another address, and the old connection is silent', (world) => {
    world.come('0', home)
    for (let n = 1; n < 50; n++) {
      world
        .after(20 * second)
        .hear(String(n - 1))
        .come(String(n), n % 2 ? abroad : home)
        .after(second)
        .lose(String(n - 1))
    }
  })

  quiet('when a device roams: another network, and the old connection stops or is silent', (world) => {
    for (const [n, address] of [home, abroad, home, abroad, home, abroad].entries()) {
      world.come(`a${n}`, address, 'cam-1:a').come(`b${n}`, address, 'cam-1:b')
      world.after(5 * second).hear(`a${n}`, `b${n}`)
      if (n % 2 === 0) world.lose(`a${n}`, `b${n}`) // else they linger
    }
  })

  quiet('when a device is in two networks for a moment, as it moves there and back', (world) => {
    world
      .come('a', home)
      .after(minute)
      .come('b', abroad, 'cam-1:b')
      .after(2 * second)
      .hear('a', 'b')
      .lose('a')
    world
      .after(minute)
      .hear('b')
      .come('a2', home)
      .after(2 * second)
      .hear('b', 'a2')
      .lose('b')
    world.after(minute).hear('a2')
  })

  quiet('when a device that lost its client id in a move comes back later', (world) => {
    world
      .come('a', home)
      .after(minute)
      .come('b', abroad)
      .yield('a')
      .after(20 * second)
      .come('a2', home)
      .yield('b')
  })

  quiet('when a program crashes and comes back, again and again, from one address', (world) => {
    world.come('0', home)
    for (let n = 1; n < 100; n++)
      world
        .after(100)
        .hear(String(n - 1))
        .come(String(n), home)
        .yield(String(n - 1))
  })

  quiet('when several programs of a device, from one place, are there at a time, and all start again', (world) => {
    for (let start = 0; start < 5; start++) {
      const ids = ['a', 'b', 'c'].map((name) => `${name}${start}`)
      for (const id of ids) world.come(id, home, `cam-1:${id[0]}`)
      for (let n = 0; n < 30; n++) world.after(second).hear(...ids)
      if (start % 2) world.lose(...ids)
    }
  })

  quiet('when a device uses IPv4 and IPv6, at a time and in turns', (world) => {
    const six = '2001:db8::7'
    world.come('a', home, 'cam-1:a').come('b', six, 'cam-1:b')
    for (let n = 0; n < 30; n++) world.after(second).hear('a', 'b')
    world.come('c0', home)
    for (let n = 1; n < 20; n++)
      world
        .after(second)
        .hear(`c${n - 1}`)
        .lose(`c${n - 1}`)
        .come(`c${n}`, n % 2 ? six : home)
  })

  quiet('when one NAT, or one /48, gives connections addresses of its own', (world) => {
    world.come('a', '203.0.113.9', 'cam-1:a').come('b', '203.0.113.77', 'cam-1:b')
    world.come('c', '2001:db8:1:1::7', 'cam-1:c').come('d', '2001:db8:1:2::7', 'cam-1:d')
    for (let n = 0; n < 30; n++) world.after(second).hear('a', 'b', 'c', 'd')
  })

  quiet(
    'when the operator says that two networks are of one site',
    (world) => {
      world.come('a', home, 'cam-1:a').come('b', abroad, 'cam-1:b')
      for (let n = 0; n < 30; n++) world.after(second).hear('a', 'b')
      world.come('a2', abroad, 'cam-1:a').yield('a').come('a3', home, 'cam-1:a')
    },
    new World('198.51.100.0/24', '203.0.113.0/24'),
  )

  quiet('when two devices are each in a place of their own', (world) => {
    world.clones.arrived({ key: 'other', id: 'x', clientId: 'cam-2', place: placeOf(abroad), at: 0 })
    world.come('a', home)
    for (let n = 0; n < 30; n++) world.after(second).hear('a', 'x')
  })
})

suite('one that is heard beside another at a second broker', () => {
  test('is told of once, when it was heard for longer than a change of networks takes', () => {
    const world = new World().come('a', home).after(minute).elsewhere(abroad)
    for (let n = 0; n < 9; n++) world.after(second).hear('a')
    assert.deepEqual([world.beside, world.clones.watched()], [[], ['a']])
    world.after(second).hear('a').after(second).hear('a')
    assert.deepEqual([world.beside, world.rules, world.clones.watched()], [['a broker-2'], [], []])
  })

  test('is measured from its own coming where the other was there before and is heard', () => {
    const world = new World()
      .come('a', home)
      .after(4 * second)
      .hear('a')
      .elsewhere(abroad, true)
    world.after(4 * second).hear('a')
    assert.deepEqual(world.beside, [])
    world.after(2 * second).hear('a')
    assert.deepEqual(world.beside, ['a broker-2'])
  })

  test('is none that moved there: silent, or gone, or in the same place, or over IPv6', () => {
    for (const address of ['198.51.100.8', '2001:db8::7']) {
      const world = new World().come('a', home).after(minute).elsewhere(address).after(minute).hear('a')
      assert.deepEqual([world.beside, world.clones.watched()], [[], []])
    }
    const gone = new World().come('a', home).after(second).elsewhere(abroad).after(second).lose('a')
    assert.deepEqual(gone.clones.watched(), [])
    gone.come('a2', home).after(minute).hear('a2')
    assert.deepEqual(gone.beside, [])
  })

  test('is none that came after what it is told of: it has moved back, and is told of there', () => {
    const world = new World().come('a', home).after(second).elsewhere(abroad, true).after(second).come('a2', home)
    world.lose('a').after(minute).hear('a2')
    assert.deepEqual(world.beside, [])
  })

  test('is remembered of no more brokers than there may be', () => {
    const world = new World().come('a', home).after(second)
    const place = placeOf(abroad)
    for (let n = 0; n < 100; n++)
      world.clones.elsewhere({ key: 'k', broker: `broker-${n}`, place, isEarlier: true, at: world.now })
    for (let n = 0; n < 200; n++) world.after(minute).hear('a')
    assert.equal(world.beside.length, 16)
  })
})

suite('one that yields its client id to somebody at a second broker', () => {
  test('is back for it: from the same place, in a moment, having been there to hear of it', () => {
    const world = new World().come('a', home).after(minute)
    assert.equal(world.yieldTo(abroad), 'a')
    world.yield('a').after(second).come('a2', home)
    assert.deepEqual([world.beside, world.rules], [['a2 back from broker-2'], []])
  })

  test('is a device that moved: it was not there, comes later, or from elsewhere', () => {
    const comesBack = (leave: (world: World) => void, address = home): World => {
      const world = new World().come('a', home).after(minute)
      world.yieldTo(abroad)
      leave(world)
      return world.come('a2', address)
    }
    assert.deepEqual(comesBack((world) => world.after(second).lose('a')).beside, [])
    assert.deepEqual(comesBack((world) => world.yield('a').after(16 * second)).beside, [])
    assert.deepEqual(comesBack((world) => world.yield('a').after(second), '192.0.2.1').beside, [])
  })

  test('has the same client id, and is in another place', () => {
    const world = new World('198.51.100.0/24', '192.0.2.0/24').come('a', home).after(minute)
    assert.equal(world.yieldTo(abroad, 'cam-1:b'), undefined)
    world.come('b', home, 'cam-1:b').after(second / 2)
    assert.equal(world.yieldTo(abroad, 'cam-1:b'), undefined, 'it may have come after the one that is told of')
    assert.equal(world.yieldTo('192.0.2.1'), undefined)
    assert.equal(world.yieldTo('2001:db8::7'), undefined)
    assert.equal(world.yieldTo(abroad), 'a')
  })

  test('is asked for once in a while: who comes back slowly is heard beside the other', () => {
    const world = new World().come('a', home).after(minute)
    world.yieldTo(abroad)
    world.yield('a').after(minute).clones.forget(world.now)
    world.come('a2', home).after(minute).elsewhere(abroad)
    assert.equal(world.yieldTo(abroad), undefined)
    world.after(11 * second).hear('a2')
    assert.deepEqual(world.beside, ['a2 broker-2'])
    world.after(10 * minute).clones.forget(world.now)
    assert.equal(world.yieldTo(abroad), 'a2')
  })
})

test('connections of one place are not watched, those of two are, until one is gone', () => {
  const world = new World().come('a', home, 'cam-1:a').come('b', home, 'cam-1:b')
  assert.deepEqual(world.clones.watched(), [])
  world.come('c', abroad, 'cam-1:c')
  assert.deepEqual(world.clones.watched(), ['a', 'b', 'c'])
  assert.deepEqual(world.clones.ofKey('k'), ['a', 'b', 'c'])
  world.lose('b', 'c')
  assert.deepEqual([world.clones.watched(), world.clones.ofKey('k')], [[], ['a']])
})

test('what is old is forgotten: a loser that is back after its time begins anew', () => {
  const world = new World().come('a', home).come('b', abroad).yield('a').lose('b')
  world.after(11 * minute).clones.forget(world.now)
  world.come('b2', abroad).come('a2', home).yield('b2')
  assert.deepEqual(world.rules, [])
})

test('an IPv4 address in IPv6 clothes is in the place of the IPv4 address', () => {
  assert.deepEqual(placeOf('::ffff:198.51.100.7'), placeOf('198.51.100.7'))
  assert.deepEqual(placeOf('2001:db8:1:2:3::4'), { spot: '2001:db8:1:2', area: '2001:db8:1', family: 6 })
})
