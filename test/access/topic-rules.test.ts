import { describe, expect, test } from 'vitest'
import { createScope } from '../../src/access/credential.ts'
import { allowsFilter, allowsTopic, templateProblem } from '../../src/access/topic-rules.ts'

const rules = (templates: string[], devices: string[]) => ({ templates, covers: createScope(devices) })

describe('topics against templates', () => {
  test.each([
    ['devices/{device}/#', ['a'], 'devices/a', true],
    ['devices/{device}/#', ['a'], 'devices/a/x/y', true],
    ['devices/{device}/#', ['a'], 'devices/b/x', false],
    ['devices/{device}/#', ['a*'], 'devices/ab/x', true],
    ['devices/{device}/x', ['*'], 'devices/b/x', true],
    ['devices/{device}/x', ['*'], 'devices/b/x/y', false],
    ['devices/{device}/x', ['*'], 'devices/b', false],
    ['a/+/c', [], 'a/b/c', true],
    ['#', [], 'anything/at/all', true],
    ['devices/{device}/x', ['a'], 'devices/{device}/x', false],
  ])('%s of %j allows %s: %s', (template, devices, topic, allowed) => {
    expect(allowsTopic(rules([template], devices), topic)).toBe(allowed)
  })
})

describe('filters against templates', () => {
  test.each([
    ['devices/{device}/#', ['a'], 'devices/a/#', true],
    ['devices/{device}/#', ['a'], 'devices/a/+', true],
    ['devices/{device}/#', ['a'], 'devices/+/x', false],
    ['devices/{device}/#', ['a'], 'devices/#', false],
    ['devices/{device}/#', ['*'], 'devices/+/x', true],
    ['devices/{device}/#', ['*'], 'devices/#', false],
    ['devices/{device}/#', ['*'], '#', false],
    ['devices/{device}/#', ['*'], '+/a/x', false],
    ['devices/{device}/x', ['*'], 'devices/a/#', false],
    ['a/+/c', [], 'a/#', false],
    ['a/+/c', [], 'a/+/c', true],
    ['a/+/c', [], 'a/b/+', false],
    ['#', [], '#', true],
    ['#', [], '+/x', true],
    ['devices/{device}/x', ['a'], 'devices/{device}/x', false],
    ['devices/{device}/x', ['*'], 'devices/#', false],
  ])('%s of %j allows %s: %s', (template, devices, filter, allowed) => {
    expect(allowsFilter(rules([template], devices), filter)).toBe(allowed)
  })

  test('whatever an allowed filter matches is an allowed topic', () => {
    const levels = ['a', 'b', '+', '#', '{device}']
    const names = ['a', 'b', 'c', 'd']
    const topics = names.flatMap((x) => [
      x,
      ...names.flatMap((y) => [`${x}/${y}`, ...names.map((z) => `${x}/${y}/${z}`)]),
    ])
    const paths = (from: string[]) =>
      from.flatMap((x) => [[x], ...from.flatMap((y) => [[x, y], ...from.map((z) => [x, y, z])])])
    const wellFormed = (path: string[]) => !path.slice(0, -1).includes('#')
    const templates = paths(levels).filter(wellFormed)
    const filters = paths(levels.slice(0, 4)).filter(wellFormed)
    let allowed = 0
    for (const template of templates) {
      const given = rules([template.join('/')], ['a', 'c'])
      for (const filter of filters) {
        if (!allowsFilter(given, filter.join('/'))) continue
        allowed++
        for (const topic of topics) {
          if (allowsTopic(rules([filter.join('/')], []), topic)) {
            expect(allowsTopic(given, topic), `${template.join('/')} ${filter.join('/')} ${topic}`).toBe(true)
          }
        }
      }
    }
    expect(allowed).toBeGreaterThan(100)
  })
})

test.each([
  ['#/status', false],
  ['a/#/b', false],
  ['a+/b', false],
  ['a/b#', false],
  ['x-{device}/b', false],
  ['a\u0000b', false],
  ['#', true],
  ['a/+/{device}/#', true],
  ['/a//b', true],
])('%j is a template: %s', (template, well) => {
  expect(templateProblem(template) === null).toBe(well)
})

test('a pattern is within reach only of patterns that match all it matches', () => {
  const covers = createScope(['kit*', 'hall', '*-out'])
  for (const within of ['kit*', 'kitchen', 'kit-*', 'kit*x', 'hall', 'a-out', '*b-out', 'k*-out']) {
    expect(covers(within), within).toBe(true)
  }
  for (const beyond of ['k*', '*', 'hall*', 'h*l', 'cellar', '*out']) expect(covers(beyond), beyond).toBe(false)
})
