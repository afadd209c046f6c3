import { Type } from '@sinclair/typebox'
import { readDuration } from '../delivery/settings.ts'
import { Problem } from '../errors.ts'
import type { HttpContext, Routes } from './context.ts'
import { durable, duration, findConsumer, Ids, Named, reachConsumer } from './named-consumer.ts'
import { closeSignal } from './parameters.ts'

const maxReceive = 1000
const maxWaitMillis = 60_000

const tags = ['Consumers']
const Done = Type.Object({
  count: Type.Integer({ description: 'readings that it was done to' }),
  unknown: Type.Integer({
    description:
      'identifiers that name nothing pending: acknowledged already, or of before a seek; to release and extend also those that were delivered anew since',
  }),
})

/** Deliveries of a consumer: received, and what became of them. */
export function deliveryRoutes({ gate, guards, consumers }: HttpContext): Routes {
  const find = (name: string) => findConsumer(consumers, name)

  return async (app) => {
    app.post(
      '/v1/consumers/:name/receive',
      {
        schema: {
          tags,
          summary: 'Receive readings',
          description: 'As soon as there are any, or none after `wait`. First what is due again, then what is new.',
          params: Named,
          body: Type.Object(
            {
              max: Type.Optional(Type.Integer({ minimum: 1, maximum: maxReceive, default: 100 })),
              wait: Type.Optional(duration('how long to wait for a reading; at most 60s')),
            },
            { additionalProperties: false },
          ),
        },
      },
      async (request, reply) => {
        const { max = 100, wait = '0' } = request.body
        const consumer = find(request.params.name)
        if (consumer.settings.push && consumer.settings.push.disabled === null) {
          const hint = `PATCH /v1/consumers/${consumer.name} {"push":null} makes it one that is pulled`
          throw new Problem('consumer-pushed', 'the readings of this consumer go to its webhook', hint)
        }
        const patience = Math.min(readDuration('wait', wait), maxWaitMillis)
        if (patience > 0) guards.streaming(request.ip ?? '', reply.raw)
        const { covers, revocation } = gate.grantOf(request)
        const allowed = () => consumer.devices.every(covers)
        const deliveries = await consumer.receive(max, patience, closeSignal(reply, revocation), allowed)
        // Its filter has changed meanwhile.
        if (deliveries.length === 0) reachConsumer(gate, request, consumer)
        // Nobody is there to work on them: the next one gets them, as if they had not been delivered.
        if (reply.raw.destroyed)
          await consumer.release(
            deliveries.map(({ id }) => id),
            0,
            0,
          )
        const list = deliveries.map(
          ({ id, attempt, reading }) => `{"id":"${id}","attempt":${attempt},"reading":${reading}}`,
        )
        const { lag } = consumer.figures(Date.now())
        return reply
          .type('application/json; charset=utf-8')
          .header('cache-control', 'no-store')
          .send(`{"deliveries":[${list.join(',')}],"lag":${lag}}`)
      },
    )

    app.post(
      '/v1/consumers/:name/acknowledge',
      {
        schema: {
          tags,
          summary: 'Acknowledge deliveries: they are done',
          description:
            'By their identifiers, or everything delivered up to one of them. What was acknowledged is never delivered again.',
          params: Named,
          body: Type.Object(
            { ids: Type.Optional(Ids), upTo: Type.Optional(Type.String()) },
            { additionalProperties: false },
          ),
          response: { 200: Done },
        },
      },
      async (request) => {
        const { ids, upTo } = request.body
        const consumer = find(request.params.name)
        if ((ids === undefined) === (upTo === undefined)) {
          throw new Problem('invalid-request', 'name the deliveries either by "ids" or by "upTo"')
        }
        return durable(ids ? consumer.acknowledge(ids) : consumer.acknowledgeUpTo(upTo as string))
      },
    )

    app.post(
      '/v1/consumers/:name/release',
      {
        schema: {
          tags,
          summary: 'Give deliveries back, to be delivered again',
          params: Named,
          body: Type.Object(
            { ids: Ids, delay: Type.Optional(duration('when to deliver them again')) },
            { additionalProperties: false },
          ),
          response: { 200: Done },
        },
      },
      async ({ params, body }) => find(params.name).release(body.ids, readDuration('delay', body.delay ?? '0')),
    )

    app.post(
      '/v1/consumers/:name/extend',
      {
        schema: {
          tags,
          summary: 'Keep deliveries for another `ackWait`',
          params: Named,
          body: Type.Object({ ids: Ids }, { additionalProperties: false }),
          response: { 200: Done },
        },
      },
      async ({ params, body }) => find(params.name).extend(body.ids),
    )

    app.post(
      '/v1/consumers/:name/reject',
      {
        schema: {
          tags,
          summary: 'Give deliveries up: they become dead letters',
          params: Named,
          body: Type.Object(
            { ids: Ids, reason: Type.Optional(Type.String({ maxLength: 1000 })) },
            { additionalProperties: false },
          ),
          response: { 200: Done },
        },
      },
      async ({ params, body }) => durable(find(params.name).reject(body.ids, body.reason ?? 'rejected')),
    )
  }
}
