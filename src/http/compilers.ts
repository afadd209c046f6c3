import { createRequire } from 'node:module'
import type { FastifyServerOptions } from 'fastify'

type Factories = NonNullable<NonNullable<FastifyServerOptions['schemaController']>['compilersFactory']>

interface Validator {
  (input: unknown): unknown
  errors?: unknown
}
type Serializer = (output: unknown) => string

const require = createRequire(import.meta.url)

/**
 * What Fastify makes of schemas, functions that check input and write output, made one by one when the first request
 * needs them: to make all of them, and to load what makes them, took a fourth of a start.
 */
export const lateCompilers = {
  compilersFactory: {
    buildValidator: lateValidators as NonNullable<Factories['buildValidator']>,
    buildSerializer: lateSerializers as NonNullable<Factories['buildSerializer']>,
  },
}

function lateValidators(schemas: unknown, options: unknown) {
  let compile: ((route: unknown) => Validator) | undefined
  return (route: unknown): Validator => {
    let check: Validator | undefined
    return function validate(input) {
      compile ??= require('@fastify/ajv-compiler')()(schemas, options) as (route: unknown) => Validator
      check ??= compile(route)
      const valid = check(input)
      ;(validate as Validator).errors = check.errors
      return valid
    }
  }
}

function lateSerializers(schemas: unknown, options: unknown) {
  let compile: ((route: unknown) => Serializer) | undefined
  return (route: unknown): Serializer => {
    let write: Serializer | undefined
    return (output) => {
      compile ??= require('@fastify/fast-json-stringify-compiler')()(schemas, options) as (route: unknown) => Serializer
      write ??= compile(route)
      return write(output)
    }
  }
}
