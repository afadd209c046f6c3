import type { Feed } from '../feed.ts'
import type { ConsumerChange, Offset, Store } from '../store/store.ts'
import { type Consumer, type ConsumerState, createConsumer } from './consumer.ts'
import { type ConsumerSettings, readRules } from './settings.ts'

/** All consumers of the hub, by name. */
export interface Consumers {
  get(name: string): Consumer | undefined
  /** In the order of their names. */
  list(): Consumer[]
  /** Begins at an offset. `null`: there are as many as there may be. */
  create(name: string, settings: ConsumerSettings, start: Offset): Promise<Consumer | null>
  remove(name: string): Promise<void>
  /** Ends all that wait, and keeps where everybody is. */
  close(): Promise<void>
}

export interface ConsumersOptions {
  store: Pick<Store, 'opened' | 'deadLetters'>
  feed: Feed
  save(name: string, change: () => ConsumerChange): Promise<void>
}

export const maxConsumers = 10_000
// Deliveries are kept by the next acknowledgement; where there is none, by this. A crash in between costs a count of
// attempts, never a reading.
const keepMillis = 1_000

export function createConsumers({ store, feed, save }: ConsumersOptions): Consumers {
  const consumers = new Map<string, Consumer>()
  const touched = new Set<Consumer>()
  let timer: NodeJS.Timeout | null = null

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

  return {
    get: (name) => consumers.get(name),
    list: () => [...consumers.values()].sort((a, b) => (a.name < b.name ? -1 : 1)),
    async create(name, settings, start) {
      if (consumers.size >= maxConsumers) return null
      readRules(settings)
      const state = { epoch: 1, next: start, pending: [], redelivered: 0, acknowledged: 0, missed: 0 }
      const consumer = add(name, settings, state, 0)
      await consumer.keep()
      return consumer
    },
    async remove(name) {
      const consumer = consumers.get(name)
      if (!consumer) return
      consumers.delete(name)
      touched.delete(consumer)
      consumer.close()
      await save(name, () => ({ name, settings: null, state: '', buried: [], raised: [] }))
    },
    async close() {
      if (timer) clearTimeout(timer)
      for (const consumer of consumers.values()) consumer.close()
      await keepTouched()
    },
  }
}
