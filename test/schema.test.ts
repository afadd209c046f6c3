import { Type as TypeBox } from 'typebox'
import { expect, test } from 'vitest'
import { compileParameters, Type } from '../src/http/schema.ts'

type Builder = typeof Type

const shapes: ((type: Builder) => unknown)[] = [
  (type) => type.Object({ a: type.String({ description: 'text' }), b: type.Optional(type.Integer({ minimum: 1 })) }),
  (type) => type.Object({ a: type.Optional(type.Boolean()) }, { description: 'all optional' }),
  (type) => type.Array(type.Union([type.Number(), type.Null()], { description: 'or nothing' })),
  (type) => type.Record(type.String(), type.Object({ ts: type.Integer() })),
]

test('a schema is the one that TypeBox makes', () => {
  for (const shape of shapes) expect(plain(shape(Type))).toEqual(plain(shape(TypeBox as Builder)))
})

function plain(schema: unknown): unknown {
  return JSON.parse(JSON.stringify(schema))
}

const schema = Type.Object({
  name: Type.String(),
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 10, default: 5 })),
})
const check = compileParameters({ schema, method: 'GET', url: '/', httpPart: 'querystring' }) as (
  given: Record<string, unknown>,
) => { error?: { instancePath: string; message: string }[] }

test('an integer is read from its text, and has its default', () => {
  for (const [limit, value] of [
    ['7', 7],
    [undefined, 5],
  ] as const) {
    const given = { name: '1', ...(limit !== undefined && { limit }) }
    expect(check(given)).toEqual({})
    expect(given).toEqual({ name: '1', limit: value })
  }
})

test('a parameter that is missing, given twice, no integer or out of its bounds is told', () => {
  const cases: [given: Record<string, unknown>, instancePath: string, message: string][] = [
    [{}, '', "must have required property 'name'"],
    [{ name: ['a', 'b'] }, '/name', 'must be string'],
    [{ name: 'a', limit: ['1', '2'] }, '/limit', 'must be integer'],
    ...['', ' ', '1.5', 'x', 'Infinity'].map((limit): [Record<string, unknown>, string, string] => [
      { name: 'a', limit },
      '/limit',
      'must be integer',
    ]),
    [{ name: 'a', limit: '0' }, '/limit', 'must be >= 1'],
    [{ name: 'a', limit: '11' }, '/limit', 'must be <= 10'],
  ]
  for (const [given, instancePath, message] of cases) {
    expect(check(given)).toEqual({ error: [{ instancePath, message }] })
  }
})

test('a schema that cannot be checked is refused when the hub starts', () => {
  const broken = Type.Object({ flag: Type.Boolean() })
  expect(() => compileParameters({ schema: broken, method: 'GET', url: '/', httpPart: 'querystring' })).toThrow('BUG')
})
