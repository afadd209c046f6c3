import { Readable } from 'node:stream'
import { type Static, Type } from '@sinclair/typebox'
import type { FastifyRequest } from 'fastify'
import { Problem } from '../errors.ts'
import { isTimezone } from '../history/intervals.ts'
import { csvHeader } from '../history/layouts.ts'
import {
  type Format,
  fills,
  formats,
  functions,
  type HistoryPage,
  type HistoryQuery,
  readPosition,
  TooCostly,
  writePosition,
} from '../history/query.ts'
import { readPatterns } from '../store/filter.ts'
import { parseDuration } from '../units.ts'
import { chooseType } from './accept.ts'
import type { HttpContext, Routes } from './context.ts'
import { unknownDevice } from './device-routes.ts'
import { cutOff, nextLink, patternList, readChoice, readChoices, readTimeParameter } from './parameters.ts'

const defaultLimit = 1000
const maxLimit = 100_000
/** Rows of one step of a stream: some milliseconds of a reader thread, so that others get their turn. */
const streamRows = 20_000

const Query = Type.Object({
  metrics: Type.Optional(Type.String({ description: patternList })),
  from: Type.Optional(Type.String({ description: 'inclusive; integer milliseconds or RFC 3339' })),
  to: Type.Optional(Type.String({ description: 'exclusive; integer milliseconds or RFC 3339' })),
  order: Type.Optional(Type.String({ description: '`asc` (the default) or `desc`' })),
  limit: Type.Optional(
    Type.Integer({
      minimum: 1,
      description: `readings or buckets of one page; ${defaultLimit} by default, ${maxLimit} at most. without it CSV and NDJSON hold everything`,
    }),
  ),
  cursor: Type.Optional(Type.String({ description: '`next` of the page before' })),
  format: Type.Optional(Type.String({ description: `one of ${formats.join(', ')}; or say it with \`Accept\`` })),
  interval: Type.Optional(
    Type.String({ description: 'length of a bucket, such as `5m` or `1d`, `36500d` at most: asks for an aggregate' }),
  ),
  aggregate: Type.Optional(Type.String({ description: `some of ${functions.join(', ')}; \`avg\` by default` })),
  fill: Type.Optional(
    Type.String({ description: `buckets without a reading: one of ${fills.join(', ')}; \`none\` by default` }),
  ),
  timezone: Type.Optional(
    Type.String({ description: 'IANA time zone whose local days buckets align to; else to the epoch' }),
  ),
})

const mediaTypes: Record<Format, string> = {
  json: 'application/json',
  columns: 'application/vnd.telemetry-hub.columns+json',
  csv: 'text/csv',
  ndjson: 'application/x-ndjson',
}

const contentTypes: Record<Format, string> = {
  ...mediaTypes,
  json: `${mediaTypes.json}; charset=utf-8`,
  csv: `${mediaTypes.csv}; charset=utf-8; header=present`,
}

/** History of one device: raw readings or aggregates, in pages or as a stream. */
export function historyRoutes({ store, gate, guards }: HttpContext): Routes {
  return async (app) => {
    app.get(
      '/v1/devices/:device/telemetry',
      {
        schema: {
          tags: ['Pull'],
          summary: 'Read history',
          description: `Raw readings, or with \`interval\` aggregates. JSON is \`{"device","readings":[{"ts","values"}],"next"}\`, aggregated
\`{"device","interval","buckets":[{"ts","values":{"temperature":{"avg":21.4}}}],"next"}\`; \`columns\` is
\`{"device","columns":["ts","temperature"],"rows":[[…]],"next"}\`. A page that was cut has a \`next\`, and a \`Link\`. CSV and NDJSON
stream everything, or with \`limit\` are pages with a \`Link\`. A metric called \`ts\` is the column \`values.ts\`.`,
          params: Type.Object({ device: Type.String() }),
          querystring: Query,
        },
      },
      async (request, reply) => {
        const query = readQuery(request, guards.limits.maxQueryPoints)
        gate.reach(request, [query.device])
        const streams = isStream(query.format, request.query.limit)
        if (streams) {
          guards.streaming(request.ip ?? '', reply.raw)
          cutOff(reply, gate.grantOf(request).revocation)
        }
        const first = await store.history(query).catch(asProblem)
        if (!first) throw unknownDevice(query.device)
        reply.header('vary', 'accept').type(contentTypes[query.format])
        if (streams) return reply.send(Readable.from(stream(query, first), { objectMode: false }))
        if (first.next !== null) reply.header('link', nextLink(request.url, writePosition(first.next)))
        if (query.format !== 'csv') return reply.send(first.body)
        return reply.send(Buffer.concat([Buffer.from(csvHeader(first.columns)), first.body]))
      },
    )
  }

  function asProblem(error: unknown): never {
    if (!(error instanceof TooCostly)) throw error
    return guards.refuse(
      'maxQueryPoints',
      'too-costly',
      'too many values lie in the time that was asked for',
      'ask for fewer metrics, a shorter time, or with "interval" for fewer or shorter buckets at once: `limit`',
    )
  }

  // Page by page from the reader threads, as fast as the client takes it; nothing is held but the page on its way.
  async function* stream(query: HistoryQuery, first: HistoryPage): AsyncGenerator<Uint8Array | string> {
    if (query.format === 'csv') yield csvHeader(first.columns)
    // A metric that appears meanwhile has no column in a file whose header is written.
    const columns = first.metrics
    let page: HistoryPage | null = first
    while (page) {
      if (page.body.length > 0) yield page.body
      if (page.next === null) return
      page = await store.history({ ...query, position: page.next, limit: streamRows, columns })
    }
  }
}

/** Everything there is leaves as a stream; so much as was asked for is a page, which says how to go on. */
function isStream(format: Format, limit: number | undefined): boolean {
  return (format === 'csv' || format === 'ndjson') && limit === undefined
}

function readQuery(request: FastifyRequest, maxPoints: number): HistoryQuery {
  const { device } = request.params as { device: string }
  const query = request.query as Static<typeof Query>
  const format = readFormat(request, query.format)
  if ((query.limit ?? 0) > maxLimit) {
    throw new Problem(
      'invalid-request',
      `"limit" is ${query.limit}: at most ${maxLimit}`,
      'without a limit CSV and NDJSON hold everything',
    )
  }
  const from = readTimeParameter('from', query.from)
  const to = readTimeParameter('to', query.to)
  if (from !== null && to !== null && from > to) {
    throw new Problem('invalid-request', '"from" must not be after "to"')
  }
  return {
    device,
    metrics: readPatterns(query.metrics),
    columns: null,
    from,
    to,
    order: readChoice('order', query.order ?? 'asc', ['asc', 'desc']),
    position: query.cursor === undefined ? null : readCursor(query.cursor),
    maxPoints,
    limit: query.limit ?? (isStream(format, query.limit) ? streamRows : defaultLimit),
    format,
    buckets: readBuckets(query),
  }
}

const minInterval = 1
/** A hundred years. */
const maxInterval = 36_500 * 86_400_000

function readBuckets(query: Static<typeof Query>): HistoryQuery['buckets'] {
  if (query.interval === undefined) {
    for (const name of ['aggregate', 'fill', 'timezone'] as const) {
      if (query[name] !== undefined) throw new Problem('invalid-request', `"${name}" needs an "interval" such as 5m`)
    }
    return null
  }
  const interval = parseDuration(query.interval)
  if (interval === null || interval < minInterval) {
    throw new Problem(
      'invalid-request',
      `"interval" is "${query.interval}": expected a length such as 30s, 5m, 1h or 1d`,
    )
  }
  if (interval > maxInterval) {
    throw new Problem('invalid-request', `"interval" is "${query.interval}": at most 36500d`)
  }
  const timezone = query.timezone ?? null
  if (timezone !== null && !isTimezone(timezone)) {
    throw new Problem('invalid-request', `"timezone" is "${timezone}": expected an IANA name such as Europe/Berlin`)
  }
  const aggregate = readChoices('aggregate', query.aggregate ?? 'avg', functions)
  const fill = readChoice('fill', query.fill ?? 'none', fills)
  return { written: query.interval, interval, aggregate, fill, timezone }
}

/** What the URL says, or else `Accept`. */
function readFormat(request: FastifyRequest, asked: string | undefined): Format {
  if (asked !== undefined) return readChoice('format', asked, formats)
  const type = chooseType(request.headers.accept, Object.values(mediaTypes))
  return formats.find((format) => mediaTypes[format] === type) as Format
}

function readCursor(cursor: string): number {
  const position = readPosition(cursor)
  if (position === null) {
    throw new Problem('invalid-cursor', 'this is no cursor of a page', 'use `next` of the page before as it is')
  }
  return position
}
