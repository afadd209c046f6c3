import { Type } from '@sinclair/typebox'
import type { Pusher } from '../delivery/pusher.ts'
import { Problem } from '../errors.ts'
import type { HttpContext, Routes } from './context.ts'
import { findConsumer, Named } from './named-consumer.ts'

const tags = ['Consumers']
const Attempt = Type.Object({
  at: Type.Integer(),
  batch: Type.String({ description: 'its `webhook-id`' }),
  first: Type.Union([Type.String(), Type.Null()], { description: 'the first delivery of the batch' }),
  last: Type.Union([Type.String(), Type.Null()]),
  readings: Type.Integer(),
  status: Type.Union([Type.Integer(), Type.Null()]),
  durationMillis: Type.Number(),
  error: Type.Union([Type.String(), Type.Null()], { description: 'null: success' }),
})

/** The webhook of a consumer that is pushed. Its settings are the consumer's. */
export function webhookRoutes({ consumers }: HttpContext): Routes {
  return async (app) => {
    app.get(
      '/v1/consumers/:name/attempts',
      {
        schema: {
          tags,
          summary: 'The last hundred requests of a webhook, newest first',
          params: Named,
          response: { 200: Type.Object({ attempts: Type.Array(Attempt) }) },
        },
      },
      async ({ params }) => ({ attempts: pusherOf(params.name).attempts() }),
    )

    app.post(
      '/v1/consumers/:name/test',
      {
        schema: {
          tags,
          summary: 'Send a signed test to the webhook',
          description:
            'One request `{"type":"test"}`, in whatever state the webhook is. What came of it is the answer.',
          params: Named,
          response: { 200: Type.Pick(Attempt, ['at', 'status', 'durationMillis', 'error']) },
        },
      },
      async ({ params }) => pusherOf(params.name).test(),
    )
  }

  function pusherOf(name: string): Pusher {
    const pusher = consumers.pusher(findConsumer(consumers, name).name)
    if (pusher) return pusher
    throw new Problem(
      'consumer-pulled',
      'the consumer has no webhook',
      `PATCH /v1/consumers/${name} {"push":{"url":…}}`,
    )
  }
}
