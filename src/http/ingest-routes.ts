import { isUtf8 } from 'node:buffer'
import { Type } from '@sinclair/typebox'
import { collapse, decode, parseJson, toReading } from '../../devices/codecs.ts'
import { type Decoded, deviceProblem, limits } from '../../devices/reading.ts'
import { type Delivery, emptyDelivery, type Outcome } from '../../devices/sink.ts'
import { writeCursor } from '../cursor.ts'
import { Problem } from '../errors.ts'
import { notUtf8 } from './bodies.ts'
import type { HttpContext, Routes } from './context.ts'

const Accepted = Type.Object(
  {
    accepted: Type.Integer({ description: 'readings that are on disk now and were not before' }),
    duplicates: Type.Integer({ description: 'readings that were stored before' }),
    rejected: Type.Optional(
      Type.Array(
        Type.Object({
          line: Type.Integer({ description: 'which item, counted from 1' }),
          reason: Type.String(),
        }),
      ),
    ),
    cursor: Type.String({ description: 'the place in the log after these readings' }),
  },
  { description: 'Committed, synced to disk and visible to every query.' },
)

const shapes = `A reading is \`{"temperature":21.5}\`, \`{"ts":1732377600000,"temperature":21.5}\` or
\`{"ts":1732377600000,"values":{"temperature":21.5}}\`. \`ts\` is integer milliseconds or RFC 3339; without it the hub stamps
the arrival. Where nothing of a body can be stored, the answer is 400 and nothing of it is kept.`

/** How long a request waits for its commit before it is told that the hub cannot store. */
const commitTimeoutMillis = 30_000

export function ingestRoutes({ store, gate, sink, window, failure }: HttpContext): Routes {
  return async (app) => {
    // Whatever a client calls its body, it is read as it came: `curl -d` says it sends a form.
    app.removeAllContentTypeParsers()
    app.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body))

    app.post(
      '/v1/devices/:device/telemetry',
      {
        schema: {
          tags: ['Push'],
          summary: 'Push telemetry of one device',
          description: `${shapes} An array of readings is taken too: its good items are stored, and the bad ones answered and kept in the
quarantine.`,
          params: Type.Object({ device: Type.String() }),
          response: { 200: Accepted },
        },
      },
      async (request) => {
        const { device } = request.params
        gate.reach(request, [device])
        const problem = deviceProblem(device)
        if (problem) throw new Problem('invalid-request', problem)
        const received = Date.now()
        const context = { device, metric: null, now: received, window }
        const body = bodyOf(request)
        if (!isUtf8(body)) throw new Problem('invalid-telemetry', notUtf8)
        const decoded = decode('json', body.toString(), context)
        if (decoded.readings.length === 0) refuseAll(decoded)
        return commit({ ...emptyDelivery(`POST ${request.url}`, device), received, ...decoded }, decoded)
      },
    )

    app.post(
      '/v1/telemetry',
      {
        schema: {
          tags: ['Push'],
          summary: 'Push telemetry of many devices',
          description: `A JSON array or NDJSON; each item is a reading with its \`"device"\`. ${shapes} Good items are stored, bad
ones are answered with their line and kept in the quarantine. At most ${limits.maxReadings} items.`,
          response: { 200: Accepted },
        },
      },
      async (request) => {
        const received = Date.now()
        const body = bodyOf(request)
        const { covers } = gate.grantOf(request)
        const items = readItems(body)
        const decoded: Decoded = { readings: [], rejected: [] }
        for (const { line, content, text } of items) {
          const reading = isText(text) ? toDeviceReading(content, received, covers) : 'the line is not valid UTF-8'
          if (typeof reading !== 'string') decoded.readings.push(reading)
          else decoded.rejected.push({ item: line, payload: text ?? asText(content), reason: reading })
        }
        if (decoded.readings.length === 0) refuseAll(decoded)
        return commit({ ...emptyDelivery(`POST ${request.url}`), received, ...collapse(decoded, body) }, decoded)
      },
    )

    function toDeviceReading(content: unknown, now: number, covers: (device: string) => boolean) {
      if (content === undefined) return 'this is not valid JSON'
      if (typeof content !== 'object' || content === null || Array.isArray(content)) {
        return 'an item is a JSON object such as {"device":"kitchen","temperature":21.5}'
      }
      const { device, ...item } = content as { device?: unknown }
      const problem = deviceProblem(device)
      if (problem !== null) return problem
      if (!covers(device as string)) return `"${device}" is not one of the devices of this credential`
      return toReading(item, { device: device as string, metric: null, now, window })
    }

    function commit(delivery: Delivery, { rejected }: Decoded) {
      const reason = failure()
      if (reason !== null) throw new Problem('storage-unavailable', `nothing was stored: ${reason}`)
      return new Promise<{ accepted: number; duplicates: number; cursor: string }>((resolve, reject) => {
        const timer = setTimeout(() => {
          reject(
            new Problem(
              'storage-unavailable',
              `not stored within ${commitTimeoutMillis / 1000} s: ${failure() ?? 'the disk is slow'}`,
            ),
          )
        }, commitTimeoutMillis)
        sink.accept(delivery, (outcome: Outcome) => {
          clearTimeout(timer)
          if (outcome.failure !== null) return reject(new Problem('stopping', `nothing was stored: ${outcome.failure}`))
          resolve({
            accepted: outcome.accepted,
            duplicates: outcome.duplicates,
            ...(rejected.length > 0 ? { rejected: rejected.map(({ item, reason }) => ({ line: item, reason })) } : {}),
            cursor: writeCursor(store.opened.hub, outcome.offset),
          })
        })
      })
    }
  }
}

function bodyOf({ body }: { body: unknown }): Buffer {
  return Buffer.isBuffer(body) ? body : Buffer.alloc(0)
}

function refuseAll({ rejected }: Decoded): never {
  const list = rejected.map(({ item, reason }) => ({ line: item, reason }))
  const first = list[0]?.reason ?? 'the body is empty'
  const detail = list.length > 1 ? `none of the ${list.length} items can be stored, the first of them: ${first}` : first
  throw new Problem('invalid-telemetry', detail, undefined, { rejected: list })
}

interface Item {
  line: number
  /** `undefined`: not JSON. */
  content: unknown
  /** The line as it came, where the body has lines; the bytes of one that is no text. */
  text?: string | Uint8Array
}

function isText(text: Item['text']): boolean {
  return text === undefined || typeof text === 'string'
}

/** The items of a JSON array, of a single object, or of lines; told apart by looking, not by what the client says. */
function readItems(body: Buffer): Item[] {
  const whole = isUtf8(body) ? parseJson(body.toString()) : undefined
  const items =
    whole === undefined
      ? readLines(body)
      : (Array.isArray(whole) ? whole : [whole]).map((content, index): Item => ({ line: index + 1, content }))
  if (items.length > limits.maxReadings) {
    throw new Problem(
      'too-large',
      `${items.length} items: at most ${limits.maxReadings} are taken at once`,
      'send them in several requests',
    )
  }
  return items
}

const lineFeed = 10

function readLines(body: Buffer): Item[] {
  const items: Item[] = []
  for (let line = 1, at = 0; at < body.length; line++) {
    const found = body.indexOf(lineFeed, at)
    const bytes = body.subarray(at, found < 0 ? body.length : found)
    at += bytes.length + 1
    const text = bytes.toString()
    if (text.trim() === '') continue
    if (isUtf8(bytes)) items.push({ line, content: parseJson(text), text })
    else items.push({ line, content: undefined, text: bytes })
  }
  return items
}

function asText(content: unknown): string {
  try {
    return JSON.stringify(content)
  } catch {
    throw new Problem('invalid-telemetry', 'the body is nested too deeply')
  }
}
