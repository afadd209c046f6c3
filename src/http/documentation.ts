import { STATUS_CODES } from 'node:http'
import { type TSchema, Type } from '@sinclair/typebox'
import type { RouteOptions } from 'fastify'
import { rightOf } from './rights.ts'

/** What the documentation tells of an address. */
export type Address = Pick<RouteOptions, 'method' | 'url' | 'schema'>

/** RFC 9457, as every error is answered. */
export const ProblemSchema = Type.Object(
  {
    type: Type.String({ description: 'one of those listed above' }),
    title: Type.String(),
    status: Type.Integer(),
    detail: Type.String(),
    hint: Type.Optional(Type.String()),
    instance: Type.Optional(Type.String()),
  },
  { $id: 'Problem', additionalProperties: true },
)

const Ts = Type.Union([Type.Integer({ description: 'milliseconds' }), Type.String({ format: 'date-time' })])
const Value = Type.Union([Type.Number(), Type.Boolean(), Type.String()])
const Values = Type.Record(Type.String(), Value)
const Given = Type.Object(
  { ts: Type.Optional(Ts) },
  {
    additionalProperties: true,
    description: 'metrics by their names, beside `ts` or in `values`; nested objects become `a.b`',
    examples: [
      { ts: 1732377600000, temperature: 21.5 },
      { ts: 1732377600000, values: { temperature: 21.5 } },
    ],
  },
)
const GivenWithDevice = Type.Object({ device: Type.String(), ts: Type.Optional(Ts) }, { additionalProperties: true })
const oneOrMany = (item: TSchema) => Type.Union([item, Type.Array(item)])
const Next = Type.Union([Type.String(), Type.Null()], { description: 'the `cursor` of the next page, or null' })
const FeedReading = Type.Object({
  device: Type.String(),
  ts: Type.Integer(),
  values: Values,
  received: Type.Integer(),
})
const Lines = Type.String({ description: 'a JSON object a line' })

/** Bodies that the hub reads by itself, by their media types. */
const bodies: Record<string, Record<string, TSchema>> = {
  'POST /v1/devices/:device/telemetry': { 'application/json': oneOrMany(Given) },
  'POST /v1/telemetry': { 'application/json': oneOrMany(GivenWithDevice), 'application/x-ndjson': Lines },
}

/** Answers that no serializer writes, by their media types. */
const answers: Record<string, Record<string, TSchema>> = {
  'GET /v1/devices/:device/telemetry': {
    'application/json': Type.Object({
      device: Type.String(),
      interval: Type.Optional(Type.String({ description: 'of an aggregate' })),
      readings: Type.Optional(Type.Array(Type.Object({ ts: Type.Integer(), values: Values }))),
      buckets: Type.Optional(
        Type.Array(
          Type.Object({
            ts: Type.Integer(),
            values: Type.Record(Type.String(), Type.Record(Type.String(), Type.Union([Value, Type.Null()]))),
          }),
        ),
      ),
      next: Next,
    }),
    'application/vnd.telemetry-hub.columns+json': Type.Object({
      device: Type.String(),
      interval: Type.Optional(Type.String()),
      columns: Type.Array(Type.String()),
      rows: Type.Array(Type.Array(Type.Union([Value, Type.Null()]))),
      next: Next,
    }),
    'text/csv': Type.String({ description: 'RFC 4180, with a header' }),
    'application/x-ndjson': Lines,
  },
  'GET /v1/feed': {
    'application/json': Type.Object({
      readings: Type.Array(FeedReading),
      cursor: Type.String(),
      caughtUp: Type.Boolean(),
    }),
    'text/event-stream': Type.String(),
    'application/x-ndjson': Lines,
  },
  'POST /v1/consumers/:name/receive': {
    'application/json': Type.Object({
      deliveries: Type.Array(Type.Object({ id: Type.String(), attempt: Type.Integer(), reading: FeedReading })),
      lag: Type.Integer(),
    }),
  },
  'GET /metrics': { 'text/plain': Type.String({ description: 'the text format of Prometheus' }) },
}

/** What else an address answers, besides what all of its kind do. */
const outcomes: Record<string, number[]> = {
  'GET /readyz': [503],
  'GET /v1/session': [401],
  'POST /v1/session': [401],
  'GET /v1/devices/:device/telemetry': [406],
  'GET /v1/devices/:device/telemetry/latest': [304],
  'GET /v1/latest': [304],
  'GET /v1/feed': [406, 409, 410],
  'PUT /v1/consumers/:name': [409, 410],
  'PATCH /v1/consumers/:name': [409],
  'POST /v1/consumers/:name/receive': [409],
  'POST /v1/consumers/:name/acknowledge': [409],
  'POST /v1/consumers/:name/release': [409],
  'POST /v1/consumers/:name/extend': [409],
  'POST /v1/consumers/:name/reject': [409],
  'POST /v1/consumers/:name/seek': [409, 410],
  'GET /v1/consumers/:name/attempts': [409],
  'POST /v1/consumers/:name/test': [409],
  'POST /v1/quarantine/:id/retry': [409],
  'POST /v1/credentials': [409],
}

/** An address with all that it takes and answers, for people and for generators of clients. */
export function describeAddress({ method, url, schema = {} }: Address): Address {
  const address = `${method} ${url}`
  const { role } = rightOf(String(method), url)
  const needs = `Needs the role \`${role}\`, where the hub has credentials.`
  const { body = {}, response = {} } = schema as { body?: object; response?: object }
  const own = answers[address]
  return {
    method,
    url,
    schema: {
      ...schema,
      ...(role !== null && { description: [schema.description, needs].filter(Boolean).join('\n\n') }),
      security: role === null ? [] : [{ token: [] }],
      ...((address in bodies || 'body' in schema) && { body: address in bodies ? byMediaType(bodies[address]) : body }),
      response: {
        ...response,
        ...(own && { 200: { description: 'As `Accept` and `format` ask for it.', ...byMediaType(own) } }),
        ...Object.fromEntries(statusesOf(address).map((status) => [status, refusal(status)])),
      },
    },
  }
}

function statusesOf(address: string): number[] {
  const { role } = rightOf(...(address.split(' ') as [string, string]))
  return [
    ...(address.includes(' /v1/') ? [400, 429, 503] : []),
    ...(role === null ? [] : [401, 403]),
    // A device that is not known begins with its first reading.
    ...(address.includes(':') && !(address in bodies) ? [404] : []),
    ...(/^(POST|PUT|PATCH)/.test(address) ? [413, 415] : []),
    ...(outcomes[address] ?? []),
  ]
}

function refusal(status: number): object {
  const description = STATUS_CODES[status] as string
  if (status === 304) return { description, type: 'null' }
  return { description, content: { 'application/problem+json': { schema: { $ref: 'Problem#' } } } }
}

function byMediaType(schemas: Record<string, TSchema> = {}): { content: object } {
  return { content: Object.fromEntries(Object.entries(schemas).map(([type, schema]) => [type, { schema }])) }
}
