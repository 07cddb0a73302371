import assert from 'node:assert/strict'
import { test } from 'node:test'
import { array, assert as assertProperty, constantFrom, property, string } from 'fast-check'
import { filterCovers, isTopicFilter, isTopicName, maxTopicLevels, topicMatches } from '../../contract/topics.ts'

test('a topic name has no wildcard, no U+0000 and at most 100 levels', () => {
  for (const name of ['a', '/', 'a/', '/a', 'a//b', ' ', 'ä/ö', '$SYS/x', 'a/'.repeat(maxTopicLevels - 1)]) {
    assert.ok(isTopicName(name), name)
  }
  for (const name of [
    '',
    'a/+',
    '#',
    'a+b',
    'a#',
    'a\u0000b',
    '\ud800',
    'a/'.repeat(maxTopicLevels),
    'a'.repeat(65_536),
  ]) {
    assert.ok(!isTopicName(name), JSON.stringify(name.slice(0, 20)))
  }
})

test('a wildcard of a topic filter fills its level, and # is the last [MQTT-4.7.1-1] [MQTT-4.7.1-2]', () => {
  for (const filter of ['#', '+', '+/+', 'a/#', '/#', '+/a/#', '//', 'a/+/b', '$SYS/#'])
    assert.ok(isTopicFilter(filter), filter)
  for (const filter of [
    '',
    'a#',
    '#/a',
    'a/#/b',
    '##',
    'a+',
    '+a',
    'x/+a',
    'a/b+/c',
    '\u0000',
    '\udc00',
    '+/'.repeat(maxTopicLevels),
  ]) {
    assert.ok(!isTopicFilter(filter), JSON.stringify(filter.slice(0, 20)))
  }
})

test('filters match as the examples of MQTT 4.7 say', () => {
  const cases: [filter: string, name: string, matches: boolean][] = [
    ['sport/tennis/player1/#', 'sport/tennis/player1', true],
    ['sport/tennis/player1/#', 'sport/tennis/player1/score/wimbledon', true],
    ['sport/#', 'sport', true],
    ['sport/tennis/+', 'sport/tennis/player1', true],
    ['sport/tennis/+', 'sport/tennis/player1/ranking', false],
    ['sport/+', 'sport', false],
    ['sport/+', 'sport/', true],
    ['+/+', '/finance', true],
    ['/+', '/finance', true],
    ['+', '/finance', false],
    ['#', '$SYS/monitor', false],
    ['+/monitor/Clients', '$SYS/monitor/Clients', false],
    ['+/#', '$SYS/monitor', false],
    ['$SYS/#', '$SYS/monitor', true],
    ['$SYS/monitor/+', '$SYS/monitor/Clients', true],
    ['a/+', 'a/$x', true],
    ['a', 'A', false],
  ]
  for (const [filter, name, matches] of cases) assert.equal(topicMatches(filter, name), matches, `${filter} ~ ${name}`)
})

test('a filter covers what is no wider than itself', () => {
  const cases: [wide: string, narrow: string, covers: boolean][] = [
    ['a/#', 'a', true],
    ['a/#', 'a/#', true],
    ['a/#', 'a/+/c', true],
    ['a/#', 'a/+/#', true],
    ['a/+/#', 'a/#', false],
    ['+', '#', false],
    ['a/+', 'a/#', false],
    ['a/b', 'a/+', false],
    ['a', 'a/#', false],
    ['#', '+/#', true],
    ['+/#', '#', true],
    ['+/#', '/#', true],
    ['/+/#', '/#', true],
    ['/+', '/#', false],
    ['#', '$SYS/#', false],
    ['+/#', '$SYS/#', false],
    ['+/+', '+', false],
  ]
  for (const [wide, narrow, covers] of cases) assert.equal(filterCovers(wide, narrow), covers, `${wide} > ${narrow}`)
})

// The reference follows the text of MQTT 4.7 by recursion; the alphabet holds every level that is treated in its own way.
const reference = (filter: string[], name: string[]): boolean => {
  const [level, ...rest] = filter
  if (level === '#') return true
  if (level === undefined || name.length === 0) return level === undefined && name.length === 0
  return (level === '+' || level === name[0]) && reference(rest, name.slice(1))
}
const matchesByTheText = (filter: string, name: string): boolean =>
  !(name.startsWith('$') && /^[+#]/.test(filter)) && reference(filter.split('/'), name.split('/'))

const level = constantFrom('', 'a', 'b', '$s')
const names = ['', 'a', 'b', 'z', '$s', '$z']
  .flatMap((first) => [
    [first],
    ...['', 'a', 'b', 'z', '$s'].flatMap((second) => [
      [first, second],
      ...['', 'a', 'b', 'z', '$s'].flatMap((third) => [
        [first, second, third],
        [first, second, third, 'z'],
        [first, second, third, 'z', 'z'],
      ]),
    ]),
  ])
  .map((levels) => levels.join('/'))
  .filter(isTopicName)
const filterOf = array(constantFrom('', 'a', 'b', '+', '$s', '#'), { minLength: 1, maxLength: 3 })
  .map((levels) => levels.join('/'))
  .filter(isTopicFilter)

test('matching agrees with a brute-force reading of MQTT 4.7', () => {
  assertProperty(
    property(filterOf, array(level, { minLength: 1, maxLength: 4 }), (filter, levels) => {
      const name = levels.join('/')
      assert.equal(topicMatches(filter, name), matchesByTheText(filter, name))
    }),
    { numRuns: 2_000 },
  )
})

test('one filter covers another exactly when it matches every topic that the other matches', () => {
  assertProperty(
    property(filterOf, filterOf, (wide, narrow) => {
      const covers = names.every((name) => !matchesByTheText(narrow, name) || matchesByTheText(wide, name))
      assert.equal(filterCovers(wide, narrow), covers, `${wide} > ${narrow}`)
    }),
    { numRuns: 3_000 },
  )
})

test('no text makes the checks throw, and a name is a filter that matches itself', () => {
  assertProperty(
    property(string({ unit: 'binary' }), (text) => {
      if (isTopicName(text)) assert.ok(isTopicFilter(text) && topicMatches(text, text))
      else isTopicFilter(text)
    }),
    { numRuns: 1_000 },
  )
})
