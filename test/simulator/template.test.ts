import { expect, it } from 'vitest'
import { assertVerifiable, compileTemplate } from '../../simulator/template.ts'

const metrics = ['temperature', 'state']

it('placeholders become the values of the reading', () => {
  const render = compileTemplate(
    '{"t":{{temperature}},"s":"{{ state }}","d":"{{device}}","ts":{{ts}},"n":{{seq}}}',
    metrics,
  )
  expect(JSON.parse(render('sim-1', 1_700_000_000_000, 7, { temperature: 21.4, state: 'open' }))).toEqual({
    t: 21.4,
    s: 'open',
    d: 'sim-1',
    ts: 1_700_000_000_000,
    n: 7,
  })
})

it('text is escaped, so that it cannot break the JSON around it', () => {
  const text = 'a "b" \\ \n{{ts}}'
  expect(JSON.parse(compileTemplate('{"s":"{{state}}"}', metrics)('d', 0, 0, { state: text }))).toEqual({ s: text })
})

it('a metric that a reading lacks becomes null', () => {
  expect(compileTemplate('{"t":{{temperature}}}', metrics)('d', 0, 0, {})).toBe('{"t":null}')
})

it('text without placeholders stays as it is, braces included', () => {
  expect(compileTemplate('{"a":{"b":{}}} $& {{seq}}$1', metrics)('d', 0, 5, {})).toBe('{"a":{"b":{}}} $& 5$1')
})

it('an unknown placeholder is an error that names the known ones', () => {
  expect(() => compileTemplate('{{temp}}', metrics)).toThrow(
    '--payload-template: there is no {{temp}}; there are device, ts, seq, temperature, state',
  )
})

it('a payload without its time or without JSON cannot be verified, and that is said before anything is sent', () => {
  const check = (template: string) => () => assertVerifiable(compileTemplate(template, metrics), { temperature: 1 })
  expect(check('{"t":{{temperature}}}')).toThrow('lacks "ts":{{ts}}')
  expect(check('{"ts":"{{ts}}"}')).toThrow('lacks "ts":{{ts}}')
  expect(check('t={{temperature}}')).toThrow('does not make JSON')
  expect(check('{"ts":{{ts}},"t":{{temperature}}}')).not.toThrow()
})
