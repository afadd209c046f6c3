import type { Feed } from '../feed.ts'
import type { ConsumerChange, Offset, Store } from '../store/store.ts'
import type { AddressGuard } from './addresses.ts'
import { type Consumer, type ConsumerState, createConsumer } from './consumer.ts'
import { createPoster } from './post.ts'
import { createPushSource } from './push-source.ts'
import { createPusher, type Pusher } from './pusher.ts'
import { type ConsumerSettings, readRules } from './settings.ts'

/** All consumers of the hub, by name. */
export interface Consumers {
  get(name: string): Consumer | undefined
  /** What moves the cursor of a consumer that is pushed. */
  pusher(name: string): Pusher | undefined
  /** In the order of their names. */
  list(): Consumer[]
  /** Begins at an offset. `null`: there are as many as there may be. */
  create(name: string, settings: ConsumerSettings, start: Offset): Promise<Consumer | null>
  /** Takes other settings. Place, pending readings and dead letters stay, also when it is pushed from now on, or no more. */
  change(consumer: Consumer, settings: ConsumerSettings): Promise<void>
  remove(consumer: Consumer): Promise<void>
  /** Pushes those consumers that want it. */
  start(): void
  /** Ends all that wait, and keeps where everybody is. */
  close(): Promise<void>
}

export interface ConsumersOptions {
  version: string
  store: Pick<Store, 'opened' | 'deadLetters'>
  feed: Feed
  guard: AddressGuard
  save(name: string, change: () => ConsumerChange): Promise<void>
  /** A receiver does not want any more: the consumer is pulled until its owner says otherwise. */
  onDisabled(consumer: string, reason: string): void
}

export const maxConsumers = 10_000
// Deliveries are kept by the next acknowledgement; where there is none, by this. A crash in between costs a count of
// attempts, never a reading.
const keepMillis = 1_000
/** How long a webhook that is turned off waits for the answers to its last requests. */
const drainMillis = 2_000

export function createConsumers(options: ConsumersOptions): Consumers {
  const { version, store, feed, guard, save, onDisabled } = options
  const consumers = new Map<string, Consumer>()
  const pushers = new Map<string, Pusher>()
  const touched = new Set<Consumer>()
  let timer: NodeJS.Timeout | null = null
  let closed = false

  for (const { name, settings, state, deadLetters } of store.opened.consumers) {
    add(name, JSON.parse(settings) as ConsumerSettings, JSON.parse(state) as ConsumerState, deadLetters)
  }

  function add(name: string, settings: ConsumerSettings, state: ConsumerState, deadLetters: number): Consumer {
    const consumer = createConsumer({ name, settings, state, deadLetters, feed, store, save: saveOne, onTouched })
    consumers.set(name, consumer)
    return consumer
  }

  function saveOne(name: string, change: () => ConsumerChange): Promise<void> {
    const consumer = consumers.get(name)
    if (consumer) touched.delete(consumer)
    // One that was removed meanwhile must not come back.
    return consumer ? save(name, change) : Promise.resolve()
  }

  function onTouched(consumer: Consumer): void {
    touched.add(consumer)
    timer ??= setTimeout(() => void keepTouched(), keepMillis)
  }

  async function keepTouched(): Promise<void> {
    timer = null
    await Promise.allSettled([...touched].map((consumer) => consumer.keep()))
  }

  function startPusher(consumer: Consumer): void {
    const { name, settings } = consumer
    const { push } = settings
    if (!push || closed || consumers.get(name) !== consumer) return
    const { url, secrets, timeoutMillis } = push
    const poster = createPoster({ url, secrets, timeoutMillis, guard, version })
    const pusher = createPusher({
      name,
      source: createPushSource(consumer),
      settings: push,
      post: poster.post,
      onDisabled(reason) {
        onDisabled(name, reason)
        consumer.change({ ...consumer.settings, push: { ...push, disabled: reason } }).catch(() => {})
      },
    })
    pushers.set(name, {
      ...pusher,
      async stop() {
        await pusher.stop(drainMillis)
        poster.close()
      },
    })
    pusher.start()
  }

  async function stopPusher(name: string): Promise<void> {
    const pusher = pushers.get(name)
    pushers.delete(name)
    await pusher?.stop()
  }

  return {
    get: (name) => consumers.get(name),
    pusher: (name) => pushers.get(name),
    list: () => [...consumers.values()].sort((a, b) => (a.name < b.name ? -1 : 1)),
    async create(name, settings, start) {
      if (consumers.size >= maxConsumers) return null
      readRules(settings)
      const state = { epoch: 1, next: start, pending: [], redelivered: 0, acknowledged: 0, missed: 0 }
      const consumer = add(name, settings, state, 0)
      await consumer.keep()
      startPusher(consumer)
      return consumer
    },
    async change(consumer, settings) {
      readRules(settings)
      const { push } = consumer.settings
      const same = JSON.stringify(settings.push) === JSON.stringify(push)
      // What one of them holds is given back before the other one, or a reader, asks for it.
      if (!same) await stopPusher(consumer.name)
      await consumer.change(settings)
      if (!same) startPusher(consumer)
    },
    async remove(consumer) {
      const { name } = consumer
      consumers.delete(name)
      touched.delete(consumer)
      await stopPusher(name)
      consumer.close()
      await save(name, () => ({ name, settings: null, state: '', buried: [], raised: [] }))
    },
    start() {
      for (const consumer of consumers.values()) startPusher(consumer)
    },
    async close() {
      closed = true
      if (timer) clearTimeout(timer)
      await Promise.all([...pushers.keys()].map(stopPusher))
      for (const consumer of consumers.values()) consumer.close()
      await keepTouched()
    },
  }
}
