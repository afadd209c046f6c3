import { Readable } from 'node:stream'
import { type Static, Type } from '@sinclair/typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { WebSocket } from 'ws'
import { readPlace, writeCursor } from '../cursor.ts'
import { Problem, type ProblemCode } from '../errors.ts'
import { type Encode, earliest, type FeedPage, type FeedQuery, noEntries, type PageContent } from '../feed.ts'
import { readPatterns } from '../store/filter.ts'
import { chooseType } from './accept.ts'
import type { HttpContext, Routes } from './context.ts'
import { guardSocket } from './guarded-server.ts'
import { abortOn, closeSignal, patternList } from './parameters.ts'
import { problemType } from './problem.ts'

const maxWaitSeconds = 60
const heartbeatMillis = 15_000
/** How long a poll looks for a reading that passes its filter. */
const scanMillis = 1_000
/** Readings of one frame. */
const defaultLimit = 1000

const Query = Type.Object({
  after: Type.Optional(
    Type.String({
      description:
        'a cursor, `earliest` or `latest`. Without it polling starts at the earliest reading, the streaming modes at the latest',
    }),
  ),
  device: Type.Optional(Type.String({ description: patternList })),
  metric: Type.Optional(Type.String({ description: patternList })),
  limit: Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: 10_000,
      default: defaultLimit,
      description: 'readings of one answer or frame',
    }),
  ),
  wait: Type.Optional(
    Type.Integer({
      minimum: 0,
      maximum: maxWaitSeconds,
      description: 'seconds to wait for a reading; `Prefer: wait=30` says the same',
    }),
  ),
})
type Query = Static<typeof Query>

/** The log as a feed: five ways to ask, one cursor. Each way is a few lines over `read` or `follow`. */
export function feedRoutes({ store, gate, feed, guards }: HttpContext): Routes {
  const { hub } = store.opened
  const cursor = (page: { next: number }) => writeCursor(hub, page.next)

  return async (app) => {
    app.route({
      method: 'GET',
      url: '/v1/feed',
      schema: {
        tags: ['Feed'],
        summary: 'Read the feed of all readings',
        description: `One URL, five modes, and one cursor that goes on in any of them.

- plain GET: what is there, as \`{"readings":[{"device","ts","values","received"}],"cursor","caughtUp"}\`
- \`Prefer: wait=30\` (RFC 7240) or \`wait=30\`: the same, as soon as there is something, or empty after the wait
- \`Accept: text/event-stream\`: server-sent events; \`id\` is the cursor, and \`Last-Event-ID\` resumes
- \`Accept: application/x-ndjson\`: one reading a line, each with its cursor
- WebSocket: frames \`{"type":"readings","readings":[…],"cursor"}\``,
        querystring: Query,
        headers: Type.Object({
          prefer: Type.Optional(Type.String()),
          'last-event-id': Type.Optional(Type.String()),
        }),
      },
      handler: (request, reply) => {
        const type = chooseType(request.headers.accept, [
          'application/json',
          'text/event-stream',
          'application/x-ndjson',
        ])
        reply.header('vary', 'accept')
        if (type === 'application/json') return poll(request, reply)
        return sendStream(request, reply, type, type === 'text/event-stream' ? encodeEvents : encodeLines)
      },
      wsHandler: (socket, request) => void serveSocket(socket, request),
    })
  }

  async function poll(request: FastifyRequest, reply: FastifyReply) {
    const query = await readQuery(request, 'earliest')
    const { wait, preferred } = readWait(request)
    if (wait > 0) guards.streaming(request.ip ?? '', reply.raw)
    const deadline = performance.now() + wait * 1000
    const granted = gate.grantOf(request).revocation
    const signal = closeSignal(reply, granted)
    const patience = Math.max(deadline, performance.now() + scanMillis)
    let page = await feed.read(query)
    refuseGone(page, query)
    // A filter may pass over much that it does not want: go on until there is something, or nothing more, but not for
    // so long that the reader gives up; it has a cursor to go on from.
    while (
      page.ends.length === 0 &&
      performance.now() < (page.caughtUp ? deadline : patience) &&
      !signal.aborted &&
      !feed.closed
    ) {
      if (page.caughtUp) await feed.wait(page.next, deadline - performance.now(), signal)
      const after = page.next
      page = await feed.read({ ...query, after })
      refuseGone(page, { after })
    }
    if (granted.revoked) throw new Problem('unauthorized', notGood)
    if (preferred) reply.header('preference-applied', `wait=${wait}`)
    return reply
      .type('application/json; charset=utf-8')
      .header('cache-control', 'no-store')
      .send(page.encoded(encodeAnswer))
  }

  async function sendStream(
    request: FastifyRequest,
    reply: FastifyReply,
    type: string,
    encode: Encode,
  ): Promise<FastifyReply> {
    guards.streaming(request.ip ?? '', reply.raw)
    const query = await readQuery(request, 'latest')
    const signal = closeSignal(reply, gate.grantOf(request).revocation)
    const place = await firstPlace(query)
    async function* chunks() {
      // So that headers and the place are known at once, also while nothing happens.
      yield encode({ ...nothing, next: place })
      for await (const page of feed.follow(query, { signal, heartbeat: heartbeatMillis })) yield page.encoded(encode)
    }
    return reply
      .type(type)
      .header('cache-control', 'no-store')
      .header('x-accel-buffering', 'no')
      .send(Readable.from(chunks(), { objectMode: false }))
  }

  function encodeAnswer(page: PageContent): Buffer {
    return framed('{"readings":[', page, `],"cursor":"${cursor(page)}","caughtUp":${page.caughtUp}}`)
  }

  function encodeFrame(page: PageContent): Buffer {
    const end = `"cursor":"${cursor(page)}"}`
    if (page.ends.length === 0) return Buffer.from(`{"type":"heartbeat",${end}`)
    return framed('{"type":"readings","readings":[', page, `],${end}`)
  }

  function encodeEvents(page: PageContent): Buffer {
    const id = `id: ${cursor(page)}\n`
    // An event without a name but with an id: no listener hears of it, and the place is remembered all the same.
    if (page.ends.length === 0) return Buffer.from(`${id}event: heartbeat\ndata: {}\n\n`)
    return framed(`${id}event: readings\ndata: {"readings":[`, page, ']}\n\n')
  }

  function encodeLines(page: PageContent): Buffer {
    const { text, ends, offsets, next } = page
    // A line without a reading tells how far the feed has come.
    if (ends.length === 0) return Buffer.from(`{"cursor":"${cursor(page)}"}\n`)
    const lines = Buffer.allocUnsafe(text.length + ends.length * lineEnd(hub, Number.MAX_SAFE_INTEGER).length)
    let [from, at] = [0, 0]
    ends.forEach((end, index) => {
      lines.set(text.subarray(from, end), at)
      // In place of the brace that ends the reading.
      at += end - from - 1
      from = end + 1
      at += lines.write(lineEnd(hub, index + 1 < ends.length ? (offsets[index] as number) + 1 : next), at, 'latin1')
    })
    return lines.subarray(0, at)
  }

  async function serveSocket(socket: WebSocket, request: FastifyRequest): Promise<void> {
    const granted = gate.grantOf(request).revocation
    const aborter = abortOn(socket, granted)
    socket.on('error', () => aborter.abort())
    guardSocket(socket, guards, false)
    try {
      guards.streaming(request.ip ?? '', socket)
      const query = await readQuery(request, 'latest')
      const place = await firstPlace(query)
      await sendFrame(socket, `{"type":"hello","cursor":"${cursor({ next: place })}"}`)
      let reached = place
      for await (const page of feed.follow(query, { signal: aborter.signal, heartbeat: heartbeatMillis })) {
        refuseGone(page, { after: reached })
        reached = page.next
        // A frame is sent when the one before has left: a slow reader is behind in the log, not in our memory.
        await sendFrame(socket, page.encoded(encodeFrame))
      }
      if (granted.revoked) throw new Problem('unauthorized', notGood)
      socket.close(1001, 'the hub is stopping')
    } catch (error) {
      if (aborter.signal.aborted && !granted.revoked) return
      if (!(error instanceof Problem)) request.log.error({ err: error }, 'a feed over WebSocket has failed')
      const code: ProblemCode = error instanceof Problem ? error.code : 'internal-error'
      const detail = error instanceof Problem ? error.message : 'the hub has failed; its log says why'
      const { hint, extra } = error instanceof Problem ? error : { hint: undefined, extra: {} }
      socket.send(JSON.stringify({ type: 'error', problem: problemType(code), detail, hint, ...extra }))
      socket.close(closeCodes[code] ?? 1008, code)
    }
  }

  async function readQuery(request: FastifyRequest, otherwise: 'earliest' | 'latest'): Promise<FeedQuery> {
    const query = request.query as Query
    const after = (request.headers['last-event-id'] as string | undefined) || query.after || otherwise
    return {
      after: readPlace(store.opened, feed.end, after),
      limit: query.limit ?? defaultLimit,
      filter: { devices: gate.readable(request, readPatterns(query.device)), metrics: readPatterns(query.metric) },
      reader: guards.readerAt(request.ip ?? ''),
    }
  }

  /** Where a stream begins: a place that works as a cursor, also for who asked for the earliest. */
  async function firstPlace(query: FeedQuery): Promise<number> {
    const page = await feed.read({ ...query, limit: 1 })
    refuseGone(page, query)
    return query.after === earliest ? Math.max(page.oldest, 1) : query.after
  }

  function refuseGone(page: FeedPage, { after }: Pick<FeedQuery, 'after'>): void {
    if (after === earliest || page.oldest <= after) return
    const oldest = writeCursor(hub, page.oldest)
    throw new Problem(
      'cursor-gone',
      'readings after this cursor are no longer kept',
      `the oldest place that still works is ${oldest}`,
      {
        oldest,
      },
    )
  }
}

const nothing: PageContent = { ...noEntries, next: 0, oldest: 0, caughtUp: true }

function framed(before: string, { text }: PageContent, after: string): Buffer {
  return Buffer.concat([Buffer.from(before), text, Buffer.from(after)])
}

function lineEnd(hub: string, next: number): string {
  return `,"cursor":"${writeCursor(hub, next)}"}\n`
}

const notGood = 'the token was revoked or has expired'

// RFC 6455 §7.4.1; 1013: try again later.
const closeCodes: Partial<Record<ProblemCode, number>> = {
  'internal-error': 1011,
  'too-busy': 1013,
  'too-many-requests': 1013,
}

/** Seconds to wait, and whether it was `Prefer` that said so. */
function readWait(request: FastifyRequest): { wait: number; preferred: boolean } {
  const { wait } = request.query as Query
  if (wait !== undefined) return { wait, preferred: false }
  // RFC 7240 §2, §4.3: a list; names in any case, values perhaps quoted; the first of a name counts.
  const found = /(?:^|,)\s*wait\s*=\s*("?)(\d+)\1\s*(?=[,;]|$)/i.exec(String(request.headers.prefer ?? ''))
  return { wait: Math.min(Number(found?.[2] ?? 0), maxWaitSeconds), preferred: found !== null }
}

function sendFrame(socket: WebSocket, text: string | Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.send(text, { binary: false }, (error) => (error ? reject(error) : resolve()))
  })
}
