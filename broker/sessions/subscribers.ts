import type { Subscription } from 'aedes'
import { Qlobber } from 'qlobber'
import { createTopicCache, topicRules } from '../matcher.ts'

export interface Subscriber extends Subscription {
  clientId: string
}

const nobody: Subscriber[] = []

/** For whom a message waits that are away: the filters of persistent sessions, but for those of QoS 0. */
export function createSubscribers() {
  const filters = new Qlobber<Subscriber>(topicRules)
  // By client and filter: a filter is taken out by the very object that was put in.
  const subscribers = new Map<string, Subscriber>()
  const known = createTopicCache((topic) => filters.match(topic))

  function remove(client: string, filter: string): void {
    const key = `${client}\n${filter}`
    const subscriber = subscribers.get(key)
    if (!subscriber) return
    filters.remove(filter, subscriber)
    subscribers.delete(key)
    known.clear()
  }

  return {
    put(client: string, subscription: Subscription): void {
      const filter = subscription.topic
      remove(client, filter)
      if (subscription.qos === 0) return
      const subscriber = { clientId: client, ...subscription }
      subscribers.set(`${client}\n${filter}`, subscriber)
      filters.add(filter, subscriber)
      known.clear()
    },
    remove,
    of: (topic: string): Subscriber[] => (subscribers.size === 0 ? nobody : known.get(topic)),
  }
}
