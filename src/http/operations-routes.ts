import { Type } from '@sinclair/typebox'
import { Problem } from '../errors.ts'
import type { HttpContext, Routes } from './context.ts'

const Status = Type.Object({ status: Type.String(), version: Type.String() })

/** What those ask who run the hub. */
export function operationsRoutes({ version, failure, feed, gate, metrics }: HttpContext): Routes {
  return async (app) => {
    app.get(
      '/healthz',
      { schema: { tags: ['Operations'], summary: 'Is the process alive?', response: { 200: Status } } },
      async () => ({ status: 'ok', version }),
    )

    app.get(
      '/readyz',
      {
        schema: {
          tags: ['Operations'],
          summary: 'Can it store and answer?',
          description: 'Answers 503 with the reason while storage fails and while the hub stops.',
          response: { 200: Status },
        },
      },
      async () => {
        const reason = failure()
        if (reason !== null) throw new Problem('storage-unavailable', `nothing can be stored: ${reason}`)
        if (feed.closed) throw new Problem('stopping', 'the hub is stopping')
        return { status: 'ready', version }
      },
    )

    app.get(
      '/metrics',
      {
        schema: {
          tags: ['Operations'],
          summary: 'Figures for Prometheus',
          description: 'They tell of all consumers: a token needs to be for all devices.',
        },
      },
      async (request, reply) => {
        gate.reach(request, ['*'])
        return reply.type('text/plain; version=0.0.4; charset=utf-8').send(await metrics())
      },
    )
  }
}
