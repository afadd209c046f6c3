import { isUtf8 } from 'node:buffer'
import { Type } from '@sinclair/typebox'
import { decode as decodeWith, parseJson, toReading } from '../../devices/codecs.ts'
import { type Decoded, deviceProblem } from '../../devices/reading.ts'
import { emptyDelivery, type Outcome } from '../../devices/sink.ts'
import { Problem } from '../errors.ts'
import type { Quarantined } from '../store/store.ts'
import type { HttpContext, Routes } from './context.ts'
import { nextLink } from './parameters.ts'

const Entry = Type.Object({
  id: Type.Integer(),
  received: Type.Integer({ description: 'when it arrived, in milliseconds' }),
  origin: Type.String({ description: 'the MQTT topic or the HTTP request that it came by' }),
  device: Type.String({ description: 'empty where it is not known' }),
  reason: Type.String(),
  payload: Type.Optional(Type.String({ description: 'the text as it came' })),
  payloadBase64: Type.Optional(Type.String({ description: 'where it is no text' })),
})
const Id = Type.Object({ id: Type.Integer({ minimum: 1 }) })

/** What could not be read: listed, fed in again, deleted. */
export function quarantineRoutes({ store, sink, window, route }: HttpContext): Routes {
  return async (app) => {
    app.get(
      '/v1/quarantine',
      {
        schema: {
          tags: ['Quarantine'],
          summary: 'List what could not be read, newest first',
          querystring: Type.Object({
            limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000, default: 100 })),
            cursor: Type.Optional(Type.String({ description: '`next` of the page before' })),
          }),
          response: {
            200: Type.Object({ entries: Type.Array(Entry), next: Type.Union([Type.String(), Type.Null()]) }),
          },
        },
      },
      async (request, reply) => {
        const limit = request.query.limit ?? 100
        const before = request.query.cursor === undefined ? null : readIdCursor(request.query.cursor)
        const entries = await store.quarantine({ before, limit: limit + 1 })
        const last = entries.length > limit ? entries[limit - 1] : undefined
        const next = last ? String(last.id) : null
        if (next !== null) reply.header('link', nextLink(request.url, next))
        return { entries: entries.slice(0, limit).map(toEntry), next }
      },
    )

    app.post(
      '/v1/quarantine/:id/retry',
      {
        schema: {
          tags: ['Quarantine'],
          summary: 'Feed an entry in again',
          description: 'As it came, by the rules of now; it leaves the quarantine when all of it was stored.',
          params: Id,
          response: { 200: Type.Object({ accepted: Type.Integer(), duplicates: Type.Integer() }) },
        },
      },
      async (request) => {
        const entry = await find(request.params.id)
        const decoded = decode(entry)
        const [first] = decoded.rejected
        if (first)
          throw new Problem('still-unreadable', first.reason, 'correct it and push it anew, then delete the entry')
        const outcome = await new Promise<Outcome>((resolve) => {
          sink.accept({ ...emptyDelivery(entry.origin, entry.device), ...decoded }, resolve)
        })
        if (outcome.failure !== null) throw new Problem('stopping', outcome.failure)
        await store.removeQuarantined(entry.id)
        return { accepted: outcome.accepted, duplicates: outcome.duplicates }
      },
    )

    app.delete(
      '/v1/quarantine/:id',
      {
        schema: {
          tags: ['Quarantine'],
          summary: 'Delete an entry',
          params: Id,
          response: { 204: Type.Null() },
        },
      },
      async (request, reply) => {
        await find(request.params.id)
        await store.removeQuarantined(request.params.id)
        return reply.code(204).send(null)
      },
    )
  }

  async function find(id: number): Promise<Quarantined> {
    const entry = await store.quarantined(id)
    if (!entry) throw new Problem('unknown-quarantine-entry', `the quarantine holds no entry ${id}`)
    return entry
  }

  function decode({ origin, device, payload }: Quarantined): Decoded {
    const now = Date.now()
    const text = Buffer.from(payload).toString()
    const context = { device, metric: null, now, window }
    const reject = (reason: string): Decoded => ({ readings: [], rejected: [{ item: 1, payload, reason }] })
    if (!isUtf8(payload)) return reject('the payload is not valid UTF-8')
    if (origin.startsWith('POST ')) {
      return device === '' ? decodeItem(text, reject) : decodeWith('json', text, context)
    }
    const found = route(origin)
    if (found === null) return reject(`no mapping leads from the topic ${origin} to a device`)
    if (found.kind === 'unknown') return reject(found.reason)
    if (found.kind === 'own') return decodeWith(found.codec, text, context)
    return decodeWith(found.codec, text, { ...context, device: found.device, metric: found.metric })
  }

  function decodeItem(text: string, reject: (reason: string) => Decoded): Decoded {
    const content = parseJson(text)
    if (content === undefined) return reject('the payload is not valid JSON')
    const { device, ...item } = (content ?? {}) as { device?: unknown }
    const context = { device: String(device), metric: null, now: Date.now(), window }
    const reading = deviceProblem(device) ?? toReading(item, context)
    return typeof reading === 'string' ? reject(reading) : { readings: [reading], rejected: [] }
  }
}

function toEntry({ payload, ...entry }: Quarantined) {
  const bytes = Buffer.from(payload)
  return isUtf8(bytes) ? { ...entry, payload: bytes.toString() } : { ...entry, payloadBase64: bytes.toString('base64') }
}

function readIdCursor(cursor: string): number {
  if (/^\d{1,15}$/.test(cursor)) return Number(cursor)
  throw new Problem('invalid-cursor', 'this is no cursor of a page', 'use `next` of the page before as it is')
}
