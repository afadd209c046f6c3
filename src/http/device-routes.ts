import { createHash } from 'node:crypto'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { Problem } from '../errors.ts'
import type { DeviceSummary } from '../store/store.ts'
import type { HttpContext } from './context.ts'
import { nextLink, readList } from './parameters.ts'
import { type FastifyPluginAsyncTypebox, Type } from './schema.ts'

const Device = Type.Object({
  device: Type.String(),
  online: Type.Boolean({ description: 'a connection lives over which it has pushed' }),
  firstSeen: Type.Integer({ description: 'when its first reading arrived, in milliseconds' }),
  lastSeen: Type.Integer({ description: 'when its last reading arrived, in milliseconds' }),
  metrics: Type.Array(Type.String()),
})
const Next = Type.Union([Type.String(), Type.Null()], { description: 'the `cursor` of the next page, or null' })
const Latest = Type.Record(
  Type.String(),
  Type.Object({ ts: Type.Integer(), value: Type.Union([Type.Number(), Type.Boolean(), Type.String()]) }),
)
const Metrics = Type.Optional(Type.String({ description: 'comma list; `*` stands for any characters' }))
const Devices = Type.Optional(Type.String({ description: 'comma list; `*` stands for any characters' }))
const Cursor = Type.Optional(Type.String({ description: '`next` of the page before' }))
const Limit = Type.Optional(Type.Integer({ minimum: 1, maximum: 10_000, default: 1000 }))

/** Devices and the latest values. Pages follow the names, so a cursor is the last name of a page. */
export function deviceRoutes({ store, isOnline }: HttpContext): FastifyPluginAsyncTypebox {
  const withPresence = (summary: DeviceSummary) => ({
    device: summary.device,
    online: isOnline(summary.device),
    firstSeen: summary.firstSeen,
    lastSeen: summary.lastSeen,
    metrics: summary.metrics,
  })

  /** One page, asked for with one more than it holds, so that it knows whether another one follows. */
  async function page<T extends { device: string }>(
    request: FastifyRequest,
    reply: FastifyReply,
    query: { limit?: number; cursor?: string },
    read: (limit: number, after: string) => Promise<T[]>,
  ): Promise<{ items: T[]; next: string | null }> {
    const limit = query.limit ?? 1000
    const items = await read(limit + 1, query.cursor === undefined ? '' : readNameCursor(query.cursor))
    const last = items[limit - 1]
    if (items.length <= limit || !last) return { items, next: null }
    const next = Buffer.from(last.device).toString('base64url')
    reply.header('link', nextLink(request.url, next))
    return { items: items.slice(0, limit), next }
  }

  return async (app) => {
    app.get(
      '/v1/devices',
      {
        schema: {
          tags: ['Pull'],
          summary: 'List devices, by name',
          querystring: Type.Object({ devices: Devices, limit: Limit, cursor: Cursor }),
          response: { 200: Type.Object({ devices: Type.Array(Device), next: Next }) },
        },
      },
      async (request, reply) => {
        const devices = readList(request.query.devices)
        const { items, next } = await page(request, reply, request.query, (limit, after) =>
          store.devices({ after, limit, devices, exact: false }),
        )
        return { devices: items.map(withPresence), next }
      },
    )

    app.get(
      '/v1/devices/:device',
      {
        schema: {
          tags: ['Pull'],
          summary: 'Show one device',
          params: Type.Object({ device: Type.String() }),
          response: { 200: Device },
        },
      },
      async (request) => {
        const { device } = request.params
        const [summary] = await store.devices({ after: '', limit: 1, devices: [device], exact: true })
        if (!summary) throw unknownDevice(device)
        return withPresence(summary)
      },
    )

    app.get(
      '/v1/devices/:device/telemetry/latest',
      {
        schema: {
          tags: ['Pull'],
          summary: 'Show the latest values of one device',
          description: 'The value with the greatest `ts` of each metric. Answers 304 to a matching `If-None-Match`.',
          params: Type.Object({ device: Type.String() }),
          querystring: Type.Object({ metrics: Metrics }),
          response: { 200: Type.Object({ device: Type.String(), values: Latest }) },
        },
      },
      async (request, reply) => {
        const { device } = request.params
        const metrics = readList(request.query.metrics)
        const [latest] = await store.latest({ after: '', limit: 1, devices: [device], exact: true, metrics })
        if (!latest) throw unknownDevice(device)
        return sendTagged(request, reply, JSON.stringify(latest))
      },
    )

    app.get(
      '/v1/latest',
      {
        schema: {
          tags: ['Pull'],
          summary: 'Show the latest values of many devices',
          querystring: Type.Object({ devices: Devices, metrics: Metrics, limit: Limit, cursor: Cursor }),
          response: {
            200: Type.Object({
              devices: Type.Array(Type.Object({ device: Type.String(), values: Latest })),
              next: Next,
            }),
          },
        },
      },
      async (request, reply) => {
        const devices = readList(request.query.devices)
        const metrics = readList(request.query.metrics)
        const { items, next } = await page(request, reply, request.query, (limit, after) =>
          store.latest({ after, limit, devices, exact: false, metrics }),
        )
        return sendTagged(request, reply, JSON.stringify({ devices: items, next }))
      },
    )
  }
}

export function unknownDevice(device: string): Problem {
  return new Problem(
    'unknown-device',
    `the hub knows no device "${device}"`,
    'GET /v1/devices lists those that it knows',
  )
}

function readNameCursor(cursor: string): string {
  const name = Buffer.from(cursor, 'base64url').toString()
  if (name === '' || Buffer.from(name).toString('base64url') !== cursor) {
    throw new Problem('invalid-cursor', 'this is no cursor of a page', 'use `next` of the page before as it is')
  }
  return name
}

/** The answer with a strong validator of its own content. RFC 9110 §8.8.3, §13.1.2 */
function sendTagged(request: FastifyRequest, reply: FastifyReply, body: string) {
  const tag = `"${createHash('sha1').update(body).digest('base64url')}"`
  reply.header('etag', tag).header('cache-control', 'no-cache')
  const known = request.headers['if-none-match']
  if (known === '*' || known?.split(',').some((one) => one.trim().replace(/^W\//, '') === tag)) {
    return reply.code(304).send()
  }
  // Serialized already: the schema only documents it.
  return reply
    .type('application/json')
    .serializer((text: unknown) => text as string)
    .send(body as never)
}
