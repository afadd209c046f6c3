import { type FastifyPluginAsyncTypebox, type Static, Type } from '@fastify/type-provider-typebox'
import type { FastifyRequest } from 'fastify'
import { readPlace, writeCursor } from '../cursor.ts'
import type { Consumer } from '../delivery/consumer.ts'
import { maxConsumers } from '../delivery/consumers.ts'
import { type PushSettings, readPush, showPush } from '../delivery/push-settings.ts'
import type { Pusher } from '../delivery/pusher.ts'
import { type ConsumerSettings, defaultSettings, readDuration } from '../delivery/settings.ts'
import { Problem } from '../errors.ts'
import { earliest } from '../feed.ts'
import type { DeadLetter } from '../store/store.ts'
import type { HttpContext } from './context.ts'
import { closeSignal, nextLink, readList, readTimeParameter } from './parameters.ts'

const maxReceive = 1000
const maxWaitMillis = 60_000
const maxNamed = 10_000

const duration = (description: string) =>
  Type.String({ description: `${description}; a duration such as 500ms, 30s, 5m` })
const pattern = Type.String({ maxLength: 4096, description: 'comma list; `*` stands for any characters' })

const Settings = {
  filter: Type.Object(
    { device: Type.Optional(pattern), metric: Type.Optional(pattern) },
    { additionalProperties: false },
  ),
  ackWait: duration('what is not acknowledged within this time is delivered again'),
  maxDeliver: Type.Integer({
    minimum: 1,
    maximum: 1000,
    description: 'deliveries of a reading, the first included; after the last it is a dead letter',
  }),
  maxPending: Type.Integer({
    minimum: 1,
    maximum: 100_000,
    description: 'readings that may be delivered and not acknowledged at one time',
  }),
  backoff: Type.Array(Type.String(), {
    maxItems: 100,
    description:
      'what to wait, besides `ackWait`, before the second, third … delivery; the last one counts for all that follow',
  }),
}
const Push = Type.Object(
  {},
  {
    additionalProperties: true,
    description:
      'a webhook: `{"url":"https://…","secret":"whsec_…","batch":100,"batchWait":"1s","concurrency":4,"rate":"50/s","timeout":"15s"}`; all but `url` can be left out, and `secrets` may name several for a rotation',
  },
)
const Place = Type.String({ description: '`earliest`, `latest` or a cursor of the feed' })
const Given = Type.Object(
  {
    filter: Type.Optional(Settings.filter),
    ackWait: Type.Optional(Settings.ackWait),
    maxDeliver: Type.Optional(Settings.maxDeliver),
    maxPending: Type.Optional(Settings.maxPending),
    backoff: Type.Optional(Settings.backoff),
    push: Type.Optional(Type.Union([Push, Type.Null()])),
  },
  { additionalProperties: false },
)
const Created = Type.Object({ ...Given.properties, start: Type.Optional(Place) }, { additionalProperties: false })
const Shown = Type.Object({
  name: Type.String(),
  ...Settings,
  cursor: Type.String({ description: 'where the consumer is in the feed: everything before it was delivered' }),
  lag: Type.Integer({ description: 'readings of the log after the cursor, before the filter' }),
  pending: Type.Integer({ description: 'delivered and not acknowledged' }),
  redelivered: Type.Integer(),
  acknowledged: Type.Integer(),
  deadLetters: Type.Integer(),
  missed: Type.Integer({ description: 'readings that the log forgot before they were delivered' }),
  push: Type.Union([Type.Object({}, { additionalProperties: true }), Type.Null()], {
    description:
      'the webhook: its settings, `state` (healthy, failing, open, disabled), what was delivered and what failed',
  }),
  oldestPendingMillis: Type.Union([Type.Integer(), Type.Null()]),
})
const ShownOnce = Type.Object({
  ...Shown.properties,
  secret: Type.Optional(Type.String({ description: 'of the webhook, when the hub made it; shown this once' })),
})
const Named = Type.Object({ name: Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$' }) })
const Ids = Type.Array(Type.String(), { minItems: 1, maxItems: maxNamed })
const Done = Type.Object({
  count: Type.Integer({ description: 'readings that it was done to' }),
  unknown: Type.Integer({
    description:
      'identifiers that name nothing pending: acknowledged already, or of before a seek; to release and extend also those that were delivered anew since',
  }),
})
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
const Letter = Type.Object({
  id: Type.String(),
  at: Type.Integer(),
  attempts: Type.Integer(),
  reason: Type.String(),
  reading: Type.Object({}, { additionalProperties: true }),
})

/** Consumers: durable cursors with a name, pulled with acknowledgements. */
export function consumerRoutes({
  store,
  gate,
  feed,
  consumers,
  guard,
  guards,
}: HttpContext): FastifyPluginAsyncTypebox {
  const { hub } = store.opened

  return async (app) => {
    const tags = ['Consumers']
    // Most requests have nothing to say but their address; an empty body is as good as `{}`.
    const parseJson = app.getDefaultJsonParser('error', 'error')
    app.addContentTypeParser('application/json', { parseAs: 'string' }, (request, body, done) => {
      if (body === '') done(null, {})
      else parseJson(request, body as string, done)
    })
    // Whoever may read all that a consumer is about may work with it.
    app.addHook('preValidation', async (request) => {
      request.body ??= {}
      const { name } = request.params as { name?: string }
      const consumer = name === undefined ? undefined : consumers.get(name)
      if (consumer) reach(request, consumer.settings.filter)
    })

    app.get(
      '/v1/consumers',
      {
        schema: {
          tags,
          summary: 'List consumers, by name',
          querystring: Type.Object({
            limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000, default: 100 })),
            cursor: Type.Optional(Type.String({ description: '`next` of the page before' })),
          }),
          response: {
            200: Type.Object({ consumers: Type.Array(Shown), next: Type.Union([Type.String(), Type.Null()]) }),
          },
        },
      },
      async (request, reply) => {
        const { limit = 100, cursor = '' } = request.query
        const { covers } = gate.grantOf(request)
        const rest = consumers
          .list()
          .filter(({ name, settings }) => name > cursor && devicesOf(settings.filter).every(covers))
        const page = rest.slice(0, limit)
        const next = rest.length > limit ? (page.at(-1)?.name ?? null) : null
        if (next !== null) reply.header('link', nextLink(request.url, next))
        return { consumers: page.map(show), next }
      },
    )

    app.put(
      '/v1/consumers/:name',
      {
        schema: {
          tags,
          summary: 'Create a consumer, or give it other settings',
          description: `A consumer is a durable cursor with a name. What it delivers and nobody acknowledges within \`ackWait\` is delivered
again, at least once and in the order of the log for what was not delivered before; several workers may share it.
\`start\` counts when the consumer is new: \`latest\` without it.`,
          params: Named,
          body: Created,
          response: { 200: ShownOnce, 201: ShownOnce },
        },
      },
      async (request, reply) => {
        const { start = 'latest', ...given } = request.body
        const { name } = request.params
        allow(request, given.filter ?? {}, given.push)
        const { settings, madeSecret } = settingsOf(given, defaultSettings, consumers.get(name)?.settings.push ?? null)
        const put = await durable(consumers.put(name, settings, await offsetOf(start)))
        if (!put) throw new Problem('too-many', `there are ${maxConsumers} consumers, the most there may be`)
        return reply.code(put.created ? 201 : 200).send({ ...show(put.consumer), ...madeSecret })
      },
    )

    app.get(
      '/v1/consumers/:name',
      {
        schema: {
          tags,
          summary: 'A consumer: its settings and how it stands',
          params: Named,
          response: { 200: Shown },
        },
      },
      async (request) => show(find(request.params.name)),
    )

    app.patch(
      '/v1/consumers/:name',
      {
        schema: {
          tags,
          summary: 'Change some settings of a consumer',
          description: `Its place, what is pending and its dead letters stay. \`{"push":{"url":"https://…"}}\` turns it into a webhook, signed as
Standard Webhooks say, and \`{"push":null}\` back. A secret that the hub makes is in the answer, as \`secret\`, this once.`,
          params: Named,
          body: Given,
          response: { 200: ShownOnce },
        },
      },
      async (request) => {
        const consumer = find(request.params.name)
        allow(request, request.body.filter ?? consumer.settings.filter, request.body.push)
        const { settings, madeSecret } = settingsOf(request.body, consumer.settings, consumer.settings.push)
        await durable(consumers.change(consumer, settings))
        return { ...show(consumer), ...madeSecret }
      },
    )

    app.delete(
      '/v1/consumers/:name',
      {
        schema: {
          tags,
          summary: 'Delete a consumer and its dead letters',
          params: Named,
          response: { 204: Type.Null() },
        },
      },
      async (request, reply) => {
        await durable(consumers.remove(find(request.params.name)))
        return reply.code(204).send(null)
      },
    )

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
        const deliveries = await consumer.receive(max, patience, closeSignal(reply, gate.grantOf(request).signal))
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

    app.post(
      '/v1/consumers/:name/seek',
      {
        schema: {
          tags,
          summary: 'Go to another place of the feed',
          description: 'Replays or skips; what is pending is forgotten, dead letters stay. A time means the arrival.',
          params: Named,
          body: Type.Object(
            {
              to: Type.Union([
                Type.String({ description: '`earliest`, `latest`, a cursor, or a time in RFC 3339' }),
                Type.Integer({ description: 'a time in milliseconds' }),
              ]),
            },
            { additionalProperties: false },
          ),
          response: { 200: Shown },
        },
      },
      async ({ params, body }) => {
        const consumer = find(params.name)
        const { to } = body
        const place = String(to)
        const isTime = /^-?\d+$|^\d{4}-\d\d-/.test(place)
        await durable(consumer.seek(isTime ? await offsetAt(place) : await offsetOf(place)))
        return show(consumer)
      },
    )

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

    app.get(
      '/v1/consumers/:name/dead-letters',
      {
        schema: {
          tags,
          summary: 'List the readings that a consumer gave up, in the order of the log',
          params: Named,
          querystring: Type.Object({
            limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000, default: 100 })),
            cursor: Type.Optional(Type.String({ description: '`next` of the page before' })),
          }),
          response: {
            200: Type.Object({ deadLetters: Type.Array(Letter), next: Type.Union([Type.String(), Type.Null()]) }),
          },
        },
      },
      async (request, reply) => {
        const { limit = 100, cursor } = request.query
        const consumer = find(request.params.name)
        // What was given up a moment ago is on its way to the table.
        await durable(consumer.keep())
        const after = cursor === undefined ? 0 : letterOffset(cursor)
        const letters = await store.deadLetters({ consumer: consumer.name, after, limit: limit + 1 })
        const following = letters[limit]
        const next = following ? String(following.offset) : null
        if (next !== null) reply.header('link', nextLink(request.url, next))
        return { deadLetters: letters.slice(0, limit).map(showLetter), next }
      },
    )

    app.post(
      '/v1/consumers/:name/dead-letters/redrive',
      {
        schema: {
          tags,
          summary: 'Deliver dead letters again',
          description: 'Those named, or all. One whose reading the log no longer holds stays: its copy is in the list.',
          params: Named,
          body: Type.Object({ ids: Type.Optional(Ids) }, { additionalProperties: false }),
          response: { 200: Type.Object({ redriven: Type.Integer(), gone: Type.Integer() }) },
        },
      },
      async ({ params, body }) => durable(find(params.name).redrive(body.ids?.map(letterOffset) ?? null)),
    )

    app.delete(
      '/v1/consumers/:name/dead-letters',
      {
        schema: {
          tags,
          summary: 'Delete all dead letters of a consumer',
          params: Named,
          response: { 200: Type.Object({ deleted: Type.Integer() }) },
        },
      },
      async ({ params }) => ({ deleted: await durable(find(params.name).discard(null)) }),
    )

    app.delete(
      '/v1/consumers/:name/dead-letters/:id',
      {
        schema: {
          tags,
          summary: 'Delete a dead letter',
          params: Type.Object({ ...Named.properties, id: Type.String() }),
          response: { 204: Type.Null() },
        },
      },
      async ({ params }, reply) => {
        const deleted = await durable(find(params.name).discard([letterOffset(params.id)]))
        if (deleted === 0) throw new Problem('unknown-dead-letter', `the consumer has no dead letter "${params.id}"`)
        return reply.code(204).send(null)
      },
    )
  }

  function find(name: string): Consumer {
    const consumer = consumers.get(name)
    if (consumer) return consumer
    throw new Problem('unknown-consumer', `there is no consumer "${name}"`, `PUT /v1/consumers/${name} creates it`)
  }

  function pusherOf(name: string): Pusher {
    const pusher = consumers.pusher(find(name).name)
    if (pusher) return pusher
    throw new Problem(
      'consumer-pulled',
      'the consumer has no webhook',
      `PATCH /v1/consumers/${name} {"push":{"url":…}}`,
    )
  }

  /** `push` is read with regard to the one before it, so that a change of its batch keeps its secrets. */
  function settingsOf(given: Static<typeof Given>, base: ConsumerSettings, before: PushSettings | null) {
    const { push, ...rest } = given
    if (!push) {
      const settings: ConsumerSettings = { ...base, ...rest, ...(push === null ? { push } : {}) }
      return { settings, madeSecret: {} }
    }
    const { settings, madeSecret } = readPush(push, before, guard)
    return {
      settings: { ...base, ...rest, push: settings },
      madeSecret: madeSecret === null ? {} : { secret: madeSecret },
    }
  }

  function show(consumer: Consumer): Static<typeof Shown> {
    const { push, ...settings } = consumer.settings
    const { oldestPending, next, ...figures } = consumer.figures(Date.now())
    return {
      name: consumer.name,
      ...settings,
      push: push && { ...showPush(push), ...consumers.pusher(consumer.name)?.figures() },
      cursor: writeCursor(hub, next),
      ...figures,
      oldestPendingMillis: oldestPending,
    }
  }

  function reach(request: FastifyRequest, filter: ConsumerSettings['filter']): void {
    gate.reach(request, devicesOf(filter))
  }

  /** What a consumer is about must be within reach, and where the hub sends it is for administrators. */
  function allow(request: FastifyRequest, filter: ConsumerSettings['filter'], push: unknown): void {
    reach(request, filter)
    if (push) gate.require(request, 'admin')
  }

  async function offsetOf(place: string): Promise<number> {
    const offset = readPlace(store.opened, feed.end, place)
    if (place === 'latest') return offset
    const page = await feed.read({ after: earliest, limit: 1, filter: { devices: [], metrics: [] } })
    const oldest = Math.max(page.oldest, 1)
    if (offset === earliest) return oldest
    if (offset < oldest) throw new Problem('cursor-gone', 'readings after this cursor are no longer kept')
    return offset
  }

  async function offsetAt(time: string): Promise<number> {
    return (await store.offsetAt(readTimeParameter('to', time) as number)) ?? feed.end
  }
}

/** The patterns of a filter; without one it is about all devices. */
function devicesOf({ device }: ConsumerSettings['filter']): string[] {
  const patterns = readList(device)
  return patterns.length > 0 ? patterns : ['*']
}

function letterOffset(id: string): number {
  if (/^\d{1,15}$/.test(id)) return Number(id)
  throw new Problem('invalid-request', `"${id}" is no dead letter's id`)
}

function showLetter({ offset, reading, ...letter }: DeadLetter): Static<typeof Letter> {
  return { id: String(offset), ...letter, reading: JSON.parse(reading) as Record<string, unknown> }
}

/** What is kept nowhere may not be answered as done. */
function durable<T>(kept: Promise<T>): Promise<T> {
  return kept.catch((error: Error) => {
    throw error instanceof Problem ? error : new Problem('stopping', error.message)
  })
}
