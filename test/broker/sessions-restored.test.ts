import type { PublishPacket } from 'aedes'
import { expect, test } from 'vitest'
import type { QueuedPacket } from '../../broker/sessions/outgoing.ts'
import { createSessions, type Sessions } from '../../broker/sessions/sessions.ts'
import { emptyDelivery } from '../../devices/sink.ts'
import { defaultConfig } from '../../src/config.ts'
import { createDictionary } from '../../src/dictionary.ts'
import { openSqliteStore } from '../../src/store/sqlite/sqlite-store.ts'
import { createWriter } from '../../src/writer.ts'
import { temporaryFolder } from '../hub-process.ts'
import { createRandom } from '../random.ts'

const clients = ['a', 'b', 'c\u00e4', 'with space']
const topics = ['x', 'x/y', 'x//z', 'other']
const filters = ['x', 'x/#', '+/y', '#']
const limits = { ...defaultConfig(), maxQueued: 20, maxRetained: 3 }

/** All that a client can notice. */
function visible(sessions: Sessions) {
  return {
    sessions: [...sessions.entries()]
      .map(([client, { owner, subscriptions, queue }]) => ({
        client,
        owner,
        subscriptions: [...subscriptions.values()].map(({ topic, qos }) => [topic, qos]).sort(),
        waiting: sessions.outgoing
          .packets(queue)
          .map(({ cmd, topic, payload, qos, messageId }) => [cmd, topic, payload && String(payload), qos, messageId])
          .sort(),
      }))
      .sort((one, other) => (one.client < other.client ? -1 : 1)),
    retained: [...sessions.retained.matching(['#'])].map(({ topic, payload }) => [topic, String(payload)]).sort(),
    heard: topics.map((topic) =>
      sessions
        .subscribersOf(topic)
        .map(({ clientId, qos }) => `${clientId} ${qos}`)
        .sort(),
    ),
  }
}

test.each([1, 2, 3, 4, 5])(
  'what is restored from disk is what was in memory, whatever happened (seed %i)',
  async (seed) => {
    const { next: random, pick } = createRandom(seed)
    const folder = await temporaryFolder()
    const store = await openSqliteStore({ folder, durability: 'os' })
    const writer = createWriter(store, createDictionary(store.opened), () => {})
    const sessions = createSessions(writer, limits, { handshakes: [], notes: [] })
    let counter = 0

    function publish(): Promise<void> {
      const qos = pick([0, 1, 2] as const)
      const payload = Buffer.from(random() < 0.1 ? '' : `text ${counter}`)
      const packet = { cmd: 'publish', topic: pick(topics), payload, qos, retain: random() < 0.3, dup: false }
      const prepared = sessions.prepare(packet as unknown as QueuedPacket)
      const numbered = { ...packet, brokerId: 'broker', brokerCounter: ++counter } as unknown as QueuedPacket
      const pass = () => {
        if (packet.retain) sessions.storeRetained(numbered)
        if (qos > 0) sessions.enqueue(sessions.subscribersOf(packet.topic), numbered)
      }
      if (!prepared) return Promise.resolve(pass())
      return new Promise((resolve) => {
        writer.accept({ ...emptyDelivery(''), notes: prepared.notes }, () => {
          prepared.kept()
          // Some publishers have gone before Aedes passes their message on.
          if (random() < 0.9) pass()
          resolve()
        })
      })
    }

    function send(): void {
      const queue = sessions.get(pick(clients))?.queue
      if (!queue) return
      const { outgoing } = sessions
      const next = random() < 0.5 ? outgoing.take(queue) : null
      if (next) return void outgoing.identify(queue, next)
      const packet = pick(outgoing.packets(queue)) as (QueuedPacket & PublishPacket) | undefined
      if (packet?.cmd === 'publish' && packet.qos === 2 && random() < 0.5) {
        outgoing.release(queue, packet.messageId as number)
      } else outgoing.acknowledged(queue, packet?.messageId)
    }

    const published: Promise<void>[] = []
    for (let step = 0; step < 400; step++) {
      const client = pick(clients)
      const choice = random()
      if (choice < 0.1) sessions.open(client, pick(['', 'device:a']))
      else if (choice < 0.2 && sessions.get(client)) {
        sessions.subscribe(client, [{ topic: pick(filters), qos: pick([0, 1, 2] as const) }])
      } else if (choice < 0.23) sessions.unsubscribe(client, [pick(filters)])
      else if (choice < 0.25) sessions.remove(client)
      else if (choice < 0.6) published.push(publish())
      else send()
      if (random() < 0.1) await new Promise((resolve) => setImmediate(resolve))
    }
    await Promise.all(published)
    // Whatever happened, something waits.
    sessions.subscribe(pick(clients), [{ topic: 'end', qos: 1 }])
    const last = { cmd: 'publish', topic: 'end', payload: Buffer.from('end'), qos: 1, retain: false, dup: false }
    sessions.enqueue(sessions.subscribersOf('end'), last as unknown as QueuedPacket)
    await sessions.notes.kept()
    await writer.close()
    await store.close()

    const again = await openSqliteStore({ folder, durability: 'os' })
    const later = createWriter(again, createDictionary(again.opened), () => {})
    const restored = createSessions(later, limits, again.opened)
    const before = visible(sessions)
    expect(before.sessions.some(({ waiting }) => waiting.length > 0)).toBe(true)
    expect(visible(restored)).toEqual(before)
    expect(restored.figures).toMatchObject({ damaged: 0, queued: sessions.figures.queued })
    // What nobody waits for is not kept.
    await restored.notes.kept()
    for (const client of clients) restored.remove(client)
    await restored.notes.kept()
    await later.close()
    await again.close()
    const end = await openSqliteStore({ folder, durability: 'os' })
    expect(end.opened.notes.map(([key]) => key[0]).filter((kind) => kind !== 'r')).toEqual([])
    await end.close()
  },
)

test('what cannot be read is left out, counted and deleted, and the rest is there', async () => {
  const folder = await temporaryFolder()
  const store = await openSqliteStore({ folder, durability: 'os' })
  const writer = createWriter(store, createDictionary(store.opened), () => {})
  const sessions = createSessions(writer, limits, { handshakes: [], notes: [] })
  sessions.subscribe('a', [{ topic: 'x', qos: 1 }])
  const nonsense = new Uint8Array([1, 2, 3])
  writer.note(
    [
      ['sb', nonsense],
      ['qa\u00001', nonsense],
      ['m1', nonsense],
      ['rx', nonsense],
      ['wa', nonsense],
    ],
    () => {},
  )
  await sessions.notes.kept()
  await writer.close()
  await store.close()
  const again = await openSqliteStore({ folder, durability: 'os' })
  const later = createWriter(again, createDictionary(again.opened), () => {})
  const restored = createSessions(later, limits, again.opened)
  expect(restored.figures).toMatchObject({ damaged: 5, sessions: 1 })
  expect(restored.subscribersOf('x')).toHaveLength(1)
  await restored.notes.kept()
  await later.close()
  await again.close()
})
