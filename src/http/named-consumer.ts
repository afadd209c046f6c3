import { Type } from '@sinclair/typebox'
import type { FastifyRequest } from 'fastify'
import type { Consumer } from '../delivery/consumer.ts'
import type { Consumers } from '../delivery/consumers.ts'
import { devicesOf } from '../delivery/settings.ts'
import { Problem } from '../errors.ts'
import type { Gate } from './gate.ts'

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

/** Throws unless the sender may read all that a consumer hands out. */
export function reachConsumer(gate: Gate, request: FastifyRequest, { devices, settings }: Consumer): void {
  gate.reach(request, devicesOf(settings.filter))
  if (devices.every(gate.grantOf(request).covers)) return
  const hint = 'somebody who may read them must acknowledge or delete them, or seek elsewhere'
  throw new Problem('forbidden', 'the consumer still holds readings of devices that its filter named before', hint)
}

/** What is kept nowhere may not be answered as done. */
export function durable<T>(kept: Promise<T>): Promise<T> {
  return kept.catch((error: Error) => {
    throw error instanceof Problem ? error : new Problem('stopping', error.message)
  })
}
