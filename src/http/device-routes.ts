import { createHash } from 'node:crypto'
import { Type } from '@sinclair/typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { Problem } from '../errors.ts'
import { readPatterns } from '../store/filter.ts'
import type { DeviceSummary } from '../store/store.ts'
import type { HttpContext, Routes } from './context.ts'
import { nextLink, patternList } from './parameters.ts'

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
const Metrics = Type.Optional(Type.String({ description: patternList }))
const Devices = Type.Optional(Type.String({ description: patternList }))
const Cursor = Type.Optional(Type.String({ description: '`next` of the page before' }))
const defaultLimit = 1000
const Limit = Type.Optional(Type.Integer({ minimum: 1, maximum: 10_000, default: defaultLimit }))

/** Devices and the latest values. Pages follow the names, so a cursor is the last name of a page. */
export function deviceRoutes({ store, gate, isOnline }: HttpContext): Routes {
  const withPresence = (summary: DeviceSummary) => ({
    device: summary.device,
    online: isOnline(summary.device),
    firstSeen: summary.firstSeen,
    lastSeen: summary.lastSeen,
    metrics: summary.metrics,
  })

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
        const devices = gate.readable(request, readPatterns(request.query.devices))
        const { limit = defaultLimit, cursor } = request.query
        // One more than the page holds tells whether another page follows.
        const found = await store.devices({ after: readNameCursor(cursor), limit: limit + 1, devices, exact: false })
        const items = found.slice(0, limit)
        const next = linkNext(request, reply, found.length > limit ? (items.at(-1)?.device ?? null) : null)
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
        gate.reach(request, [device])
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
        gate.reach(request, [device])
        const metrics = readPatterns(request.query.metrics)
        const { entries } = await store.latest({ after: '', limit: 1, devices: [device], exact: true, metrics })
        if (entries === '') throw unknownDevice(device)
        return sendTagged(request, reply, entries)
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
        const devices = gate.readable(request, readPatterns(request.query.devices))
        const metrics = readPatterns(request.query.metrics)
        const { limit = defaultLimit, cursor } = request.query
        const latest = await store.latest({ after: readNameCursor(cursor), limit, devices, exact: false, metrics })
        const next = linkNext(request, reply, latest.next)
        return sendTagged(request, reply, `{"devices":[${latest.entries}],"next":${JSON.stringify(next)}}`)
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

/** The cursor of the page after the one that ends with the device `last`, in the answer's header too. */
function linkNext(request: FastifyRequest, reply: FastifyReply, last: string | null): string | null {
  if (last === null) return null
  const next = Buffer.from(last).toString('base64url')
  reply.header('link', nextLink(request.url, next))
  return next
}

/** The name that a page begins after. */
function readNameCursor(cursor: string | undefined): string {
  if (cursor === undefined) return ''
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
