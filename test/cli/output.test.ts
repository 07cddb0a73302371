import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parse } from 'yaml'
import { printPages } from '../../cli/listing.ts'
import { fields, json, styled, table, visible, yaml } from '../../cli/output.ts'
import { stubIo } from '../harness/stub-io.ts'

test('what a terminal would obey is written out: controls, direction overrides, line separators, lone surrogates', () => {
  assert.equal(visible('a\u001b[31mb'), 'a<U+001B>[31mb')
  assert.equal(visible('cam\u202e1'), 'cam<U+202E>1')
  assert.equal(visible('a\r\nb\u2028c\u009b'), 'a<U+000D><U+000A>b<U+2028>c<U+009B>')
  assert.equal(visible('\ud800x'), '<U+D800>x')
  assert.equal(visible('\u{e0041}'), '<U+E0041>')
  assert.equal(visible('Zoë 東京'), 'Zoë 東京')
})

test('json keeps every value and gives a terminal nothing to obey', () => {
  const value = { text: 'a\u001b\u202e\u009b\u2028\u{e0041}b', list: [1, 'ü'] }
  const text = json(value)
  assert.doesNotMatch(text, /[\u001b\u202e\u009b\u2028\u{e0041}]/u)
  assert.deepEqual(JSON.parse(text), value)
})

test('a table is as wide as its widest cell, and one line a row whatever the cells hold', () => {
  const text = table(
    ['id', 'status'],
    [
      ['cam-1', 'active'],
      ['x\n\u001b[2J', undefined],
    ],
    false,
  )
  assert.equal(text, 'ID                    STATUS\ncam-1                 active\nx<U+000A><U+001B>[2J  -\n')
})

test('fields leave out what is missing', () => {
  const pairs: [string, string | undefined][] = [
    ['id', 'cam-1'],
    ['revoked', undefined],
    ['groups', ''],
  ]
  assert.equal(fields(pairs, false), 'id  cam-1\n')
})

test('colours are for those who want them', () => {
  assert.equal(styled('red', 'x', false), 'x')
  assert.equal(styled('red', 'x', true), '\u001b[31mx\u001b[39m')
})

test('YAML is JSON again when it is read, and holds nothing that a terminal would obey', () => {
  const value = { a: 'x\u001b]0;y\u202e', b: ['yes', '1', 'a: b'], 'k\u200b': null, '\u009b': 'line\nline' }
  const text = yaml(value)
  assert.doesNotMatch(text, /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200b\u202e]/)
  assert.deepEqual(parse(text), value)
  assert.equal(yaml({ b: 'yes', c: '1' }), 'b: yes\nc: "1"\n')
})

test('a list that comes in pages reads in every form as one that comes whole', async () => {
  const pages = [[], [{ id: 'a' }, { id: 'b\u202e' }], [], [{ id: 'longer', list: ['x'] }]]
  const columns = { head: ['id'], row: ({ id }: { id: string }) => [id] }
  const printed = async (form: 'json' | 'yaml' | 'table' | 'name', some: { id: string }[][]): Promise<string> => {
    let text = ''
    const io = stubIo({ out: (piece) => (text += piece) })
    const names = (page: { id: string }[]) => page.map(({ id }) => `${id}\n`).join('')
    await printPages(io, form, ReadableStream.from(some), { columns, names })
    return text
  }
  for (const some of [pages, [[]]]) {
    const items = some.flat()
    assert.equal(await printed('json', some), json({ items }))
    assert.deepEqual(parse(await printed('yaml', some)), { items })
  }
  assert.equal(await printed('table', pages), 'ID\na\nb<U+202E>\nlonger\n')
  assert.equal(await printed('table', [[]]), 'ID\n')
  assert.equal(await printed('name', [[{ id: 'a' }], [{ id: 'b' }]]), 'a\nb\n')
})
