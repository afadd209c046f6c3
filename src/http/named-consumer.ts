import { Type } from '@sinclair/typebox'
import type { Consumer } from '../delivery/consumer.ts'
import type { Consumers } from '../delivery/consumers.ts'
import { Problem } from '../errors.ts'

/* What all addresses below a consumer have in common. */

const maxNamed = 10_000

export const Named = Type.Object({ name: Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$' }) })
export const duration = (description: string) =>
  Type.String({ description: `${description}; a duration such as 500ms, 30s, 5m` })
/** Of deliveries or dead letters. */
export const Ids = Type.Array(Type.String(), { minItems: 1, maxItems: maxNamed })

export function findConsumer(consumers: Consumers, name: string): Consumer {
  const consumer = consumers.get(name)
  if (consumer) return consumer
  throw new Problem('unknown-consumer', `there is no consumer "${name}"`, `PUT /v1/consumers/${name} creates it`)
}

/** What is kept nowhere may not be answered as done. */
export function durable<T>(kept: Promise<T>): Promise<T> {
  return kept.catch((error: Error) => {
    throw error instanceof Problem ? error : new Problem('stopping', error.message)
  })
}
