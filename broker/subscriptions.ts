import type { Client } from 'aedes'
import { type Limits, topicLimit } from './limits.ts'
import { filterProblem } from './matcher.ts'

/** Which subscriptions the connected clients may have: well-formed ones, and not too many. */
export interface Subscriptions {
  /**
   * Why a client may not have a filter: a limit, or that it is none. Asked before it subscribes, and again for what is
   * kept of that; one SUBSCRIBE can hold a hundred thousand of them.
   */
  problem(client: object, filter: string): keyof Limits | 'malformed' | null
  removed(client: Client, filters: readonly string[]): void
  ended(client: Client): void
  readonly count: number
}

export function createSubscriptions(limits: Limits): Subscriptions {
  const filtersOf = new WeakMap<object, Set<string>>()
  let count = 0

  function problem(client: object, filter: string) {
    if (filterProblem(filter) !== null) return 'malformed'
    const tooLarge = topicLimit(filter, limits)
    if (tooLarge) return tooLarge
    const filters = filtersOf.get(client) ?? new Set()
    if (filters.has(filter)) return null
    if (filters.size >= limits.maxSubscriptionsPerClient) return 'maxSubscriptionsPerClient'
    if (count >= limits.maxSubscriptions) return 'maxSubscriptions'
    filtersOf.set(client, filters.add(filter))
    count++
    return null
  }

  return {
    problem,
    removed(client, filters) {
      const own = filtersOf.get(client)
      for (const filter of filters) if (own?.delete(filter)) count--
    },
    ended(client) {
      count -= filtersOf.get(client)?.size ?? 0
      filtersOf.delete(client)
    },
    get count() {
      return count
    },
  }
}
