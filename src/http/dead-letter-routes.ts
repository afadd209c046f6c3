import { type Static, Type } from '@sinclair/typebox'
import { Problem } from '../errors.ts'
import type { DeadLetter } from '../store/store.ts'
import type { HttpContext, Routes } from './context.ts'
import { durable, findConsumer, Ids, Named, reachConsumer } from './named-consumer.ts'
import { nextLink } from './parameters.ts'

const tags = ['Consumers']
const Letter = Type.Object({
  id: Type.String(),
  at: Type.Integer(),
  attempts: Type.Integer(),
  reason: Type.String(),
  reading: Type.Object({}, { additionalProperties: true }),
})

/** Readings that a consumer gave up: to be looked at, delivered again or deleted. */
export function deadLetterRoutes({ store, gate, consumers }: HttpContext): Routes {
  const find = (name: string) => findConsumer(consumers, name)

  return async (app) => {
    app.get(
      '/v1/consumers/:name/dead-letters',
      {
        schema: {
          tags,
          summary: 'List the readings that a consumer gave up, in the order of the log',
          params: Named,
          querystring: Type.Object({
            limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000, default: 100 })),
            cursor: Type.Optional(Type.String({ description: '`next` of the page before' })),
          }),
          response: {
            200: Type.Object({ deadLetters: Type.Array(Letter), next: Type.Union([Type.String(), Type.Null()]) }),
          },
        },
      },
      async (request, reply) => {
        const { limit = 100, cursor } = request.query
        const consumer = find(request.params.name)
        // What was given up a moment ago is on its way to the table.
        await durable(consumer.keep())
        const after = cursor === undefined ? 0 : letterOffset(cursor)
        const letters = await store.deadLetters({ consumer: consumer.name, after, limit: limit + 1 })
        // Its filter may have changed meanwhile.
        reachConsumer(gate, request, consumer)
        const following = letters[limit]
        const next = following ? String(following.offset) : null
        if (next !== null) reply.header('link', nextLink(request.url, next))
        return { deadLetters: letters.slice(0, limit).map(showLetter), next }
      },
    )

    app.post(
      '/v1/consumers/:name/dead-letters/redrive',
      {
        schema: {
          tags,
          summary: 'Deliver dead letters again',
          description: 'Those named, or all. One whose reading the log no longer holds stays: its copy is in the list.',
          params: Named,
          body: Type.Object({ ids: Type.Optional(Ids) }, { additionalProperties: false }),
          response: { 200: Type.Object({ redriven: Type.Integer(), gone: Type.Integer() }) },
        },
      },
      async ({ params, body }) => durable(find(params.name).redrive(body.ids?.map(letterOffset) ?? null)),
    )

    app.delete(
      '/v1/consumers/:name/dead-letters',
      {
        schema: {
          tags,
          summary: 'Delete all dead letters of a consumer',
          params: Named,
          response: { 200: Type.Object({ deleted: Type.Integer() }) },
        },
      },
      async ({ params }) => ({ deleted: await durable(find(params.name).discard(null)) }),
    )

    app.delete(
      '/v1/consumers/:name/dead-letters/:id',
      {
        schema: {
          tags,
          summary: 'Delete a dead letter',
          params: Type.Object({ ...Named.properties, id: Type.String() }),
          response: { 204: Type.Null() },
        },
      },
      async ({ params }, reply) => {
        const deleted = await durable(find(params.name).discard([letterOffset(params.id)]))
        if (deleted === 0) throw new Problem('unknown-dead-letter', `the consumer has no dead letter "${params.id}"`)
        return reply.code(204).send(null)
      },
    )
  }
}

function letterOffset(id: string): number {
  if (/^\d{1,15}$/.test(id)) return Number(id)
  throw new Problem('invalid-request', `"${id}" is no dead letter's id`)
}

function showLetter({ offset, reading, ...letter }: DeadLetter): Static<typeof Letter> {
  return { id: String(offset), ...letter, reading: JSON.parse(reading) as Record<string, unknown> }
}
