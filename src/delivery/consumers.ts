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
  /** Creates a consumer that begins at an offset, or changes the one of that name. `null`: there are as many as there may be. */
  put(name: string, settings: ConsumerSettings, start: Offset): Promise<{ consumer: Consumer; created: boolean } | null>
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

  // Changes of one consumer, one after another: each stops and starts what moves the cursor.
  const turns = new Map<string, Promise<unknown>>()

  for (const { name, settings, state, deadLetters } of store.opened.consumers) {
    add(name, JSON.parse(settings) as ConsumerSettings, JSON.parse(state) as ConsumerState, deadLetters)
  }

  function add(name: string, settings: ConsumerSettings, state: ConsumerState, deadLetters: Offset[]): Consumer {
    // One that was removed meanwhile must not come back, nor speak for another one of its name.
    const saveOne = (change: () => ConsumerChange): Promise<void> => {
      touched.delete(consumer)
      return consumers.get(name) === consumer ? save(name, change) : Promise.resolve()
    }
    const consumer = createConsumer({ name, settings, state, deadLetters, feed, store, save: saveOne, onTouched })
    consumers.set(name, consumer)
    return consumer
  }

  function inTurn<T>(name: string, task: () => Promise<T>): Promise<T> {
    const result = (turns.get(name) ?? Promise.resolve()).then(task)
    const ended = result
      .catch(() => {})
      .then(() => {
        if (turns.get(name) === ended) turns.delete(name)
      })
    turns.set(name, ended)
    return result
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

  async function change(consumer: Consumer, settings: ConsumerSettings): Promise<void> {
    readRules(settings)
    const same = JSON.stringify(settings.push) === JSON.stringify(consumer.settings.push)
    // What one of them holds is given back before the other one, or a reader, asks for it.
    if (!same) await stopPusher(consumer.name)
    await consumer.change(settings)
    if (!same) startPusher(consumer)
  }

  return {
    get: (name) => consumers.get(name),
    pusher: (name) => pushers.get(name),
    list: () => [...consumers.values()].sort((a, b) => (a.name < b.name ? -1 : 1)),
    put: (name, settings, start) =>
      inTurn(name, async () => {
        const known = consumers.get(name)
        if (known) {
          await change(known, settings)
          return { consumer: known, created: false }
        }
        if (consumers.size >= maxConsumers) return null
        readRules(settings)
        // Identifiers of one that had the name before mean nothing here.
        const epoch = Date.now()
        const state = { epoch, at: 0, next: start, pending: [], redelivered: 0, acknowledged: 0, missed: 0 }
        const consumer = add(name, settings, state, [])
        await consumer.keep()
        startPusher(consumer)
        return { consumer, created: true }
      }),
    change: (consumer, settings) => inTurn(consumer.name, () => change(consumer, settings)),
    remove: (consumer) =>
      inTurn(consumer.name, async () => {
        const { name } = consumer
        if (consumers.get(name) !== consumer) return
        await stopPusher(name)
        consumers.delete(name)
        consumer.close()
        touched.delete(consumer)
        await save(name, () => ({ name, settings: null, state: '', buried: [], raised: [] }))
      }),
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
