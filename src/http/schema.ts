import type { FastifySchemaCompiler } from 'fastify'
import type { TSchema, Type as TypeBox } from 'typebox'

export type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
export type { Static } from 'typebox'

/*
 * JSON Schema with the types of TypeBox, and the check of parameters by it. Both are small here, because the shapes
 * are: TypeBox is 700 modules, and it with Ajv was half a second of every start and 30 MB of a hub at rest.
 */

type Options = Record<string, unknown>
type Kind = 'Array' | 'Boolean' | 'Integer' | 'Null' | 'Number' | 'Object' | 'Optional' | 'Record' | 'String' | 'Union'

// Marks a property as optional. A symbol, so that it stays out of the document.
const optional = Symbol('optional')

/** Makes the same schemas as TypeBox does, and is typed by it. */
export const Type = {
  Array: (items: Options, options?: Options) => ({ type: 'array', items, ...options }),
  Boolean: (options?: Options) => ({ type: 'boolean', ...options }),
  Integer: (options?: Options) => ({ type: 'integer', ...options }),
  Null: (options?: Options) => ({ type: 'null', ...options }),
  Number: (options?: Options) => ({ type: 'number', ...options }),
  Object(properties: Record<string, Options & { [optional]?: true }>, options?: Options) {
    const required = Object.keys(properties).filter((name) => !properties[name]?.[optional])
    return { type: 'object', ...(required.length > 0 && { required }), properties, ...options }
  },
  Optional: (schema: Options) => ({ ...schema, [optional]: true }),
  Record: (_names: Options, values: Options, options?: Options) => ({
    type: 'object',
    patternProperties: { '^.*$': values },
    ...options,
  }),
  String: (options?: Options) => ({ type: 'string', ...options }),
  Union: (anyOf: Options[], options?: Options) => ({ anyOf, ...options }),
} as unknown as Pick<typeof TypeBox, Kind>

/** What is wrong with one parameter, in the words of Ajv, from which Fastify makes its message. */
interface Fault {
  instancePath: string
  message: string
}

interface ParameterSchema {
  type: string
  minimum?: number
  maximum?: number
  default?: unknown
}

/** Checks the parameters of a path, a query or the headers, which are text: an integer is read in place. */
export const compileParameters: FastifySchemaCompiler<TSchema> = ({ schema, method, url, httpPart }) => {
  const { properties, required = [] } = schema as unknown as {
    properties: Record<string, ParameterSchema>
    required?: string[]
  }
  const checks = Object.entries(properties)
  for (const [name, { type }] of checks) {
    if (type !== 'string' && type !== 'integer')
      throw new Error(`BUG: ${method} ${url}: no ${httpPart} of type ${type} can be checked, such as "${name}"`)
  }

  function check(given: Record<string, unknown>): { error?: Fault[] } {
    for (const name of required)
      if (given[name] === undefined) return fault('', `must have required property '${name}'`)
    for (const [name, { type, minimum, maximum, default: initial }] of checks) {
      const text = given[name]
      if (text === undefined) {
        if (initial !== undefined) given[name] = initial
        continue
      }
      // A parameter that is given twice is an array.
      if (typeof text !== 'string') return fault(`/${name}`, `must be ${type}`)
      if (type === 'string') continue
      const value = Number(text)
      if (text.trim() === '' || !Number.isInteger(value)) return fault(`/${name}`, 'must be integer')
      if (minimum !== undefined && value < minimum) return fault(`/${name}`, `must be >= ${minimum}`)
      if (maximum !== undefined && value > maximum) return fault(`/${name}`, `must be <= ${maximum}`)
      given[name] = value
    }
    return {}
  }
  return check as ReturnType<FastifySchemaCompiler<TSchema>>
}

function fault(instancePath: string, message: string): { error: Fault[] } {
  return { error: [{ instancePath, message }] }
}
