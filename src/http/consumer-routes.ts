import { type Static, Type } from '@sinclair/typebox'
import type { FastifyRequest } from 'fastify'
import { readPlace, writeCursor } from '../cursor.ts'
import type { Consumer } from '../delivery/consumer.ts'
import { maxConsumers } from '../delivery/consumers.ts'
import { type PushSettings, readPush, showPush } from '../delivery/push-settings.ts'
import { type ConsumerSettings, defaultSettings, devicesOf } from '../delivery/settings.ts'
import { Problem } from '../errors.ts'
import { earliest } from '../feed.ts'
import type { HttpContext, Routes } from './context.ts'
import { deadLetterRoutes } from './dead-letter-routes.ts'
import { deliveryRoutes } from './delivery-routes.ts'
import { durable, duration, findConsumer, Named, reachConsumer } from './named-consumer.ts'
import { nextLink, patternList, readTimeParameter } from './parameters.ts'
import { webhookRoutes } from './webhook-routes.ts'

const tags = ['Consumers']
const pattern = Type.String({ maxLength: 4096, description: patternList })

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

/** Consumers: durable cursors with a name, pulled with acknowledgements. */
export function consumerRoutes(context: HttpContext): Routes {
  const { store, gate, feed, consumers, guard } = context
  const { hub } = store.opened
  const find = (name: string) => findConsumer(consumers, name)

  return async (app) => {
    // Whoever may read all that a consumer hands out may work with it. Where the hub sends readings is for administrators,
    // and so is all that moves the place of a webhook, or ends it.
    app.addHook('preValidation', async (request) => {
      // Most requests have nothing to say but their address; an empty body is as good as `{}`.
      request.body ??= {}
      const { name } = request.params as { name?: string }
      const consumer = name === undefined ? undefined : consumers.get(name)
      if (!consumer) return
      reachConsumer(gate, request, consumer)
      if (consumer.settings.push && !/^(GET|HEAD)$/.test(request.method)) gate.require(request, 'admin')
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
        const rest = consumers.list().filter(({ name, devices }) => name > cursor && devices.every(covers))
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
Standard Webhooks say, and \`{"push":null}\` back: both are for administrators. A secret that the hub makes is in the answer, as
\`secret\`, this once. Readings that passed a filter of before stay pending, or dead letters; until there are none, only those
who may read them too may work with the consumer.`,
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

    await app.register(deliveryRoutes(context))
    await app.register(deadLetterRoutes(context))
    await app.register(webhookRoutes(context))
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

  /** What a consumer is about must be within reach, and where the hub sends it is for administrators. */
  function allow(request: FastifyRequest, filter: ConsumerSettings['filter'], push: unknown): void {
    gate.reach(request, devicesOf(filter))
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
