import type { Client } from 'aedes'
import { type Limits, topicLimit } from './limits.ts'
import { filterProblem } from './matcher.ts'
import type { Sessions } from './sessions/sessions.ts'

type Subscribing = Pick<Client, 'id'> & { clean?: boolean }

/** Which subscriptions clients may have, connected or remembered: well-formed ones, and not too many. */
export interface Subscriptions {
  /**
   * Why a client may not have a filter: a limit, or that it is none. Asked before it subscribes, and again for what is
   * kept of that; one SUBSCRIBE can hold a hundred thousand of them.
   */
  problem(client: Subscribing, filter: string): keyof Limits | 'malformed' | null
  removed(client: Client, filters: readonly string[]): void
  ended(client: Client): void
  readonly count: number
}

/** Filters are of the session, and of the connection where that is the session. */
export function createSubscriptions(limits: Limits, sessions: Pick<Sessions, 'get' | 'filters'>): Subscriptions {
  const filtersOf = new WeakMap<object, Set<string>>()
  let ofConnections = 0
  const all = () => ofConnections + sessions.filters

  function problem(client: Subscribing, filter: string) {
    if (filterProblem(filter) !== null) return 'malformed'
    const tooLarge = topicLimit(filter, limits)
    if (tooLarge) return tooLarge
    const own = client.clean ? filtersOf.get(client) : sessions.get(client.id)?.subscriptions
    if (own?.has(filter)) return null
    if (own && own.size >= limits.maxSubscriptionsPerClient) return 'maxSubscriptionsPerClient'
    if (all() >= limits.maxSubscriptions) return 'maxSubscriptions'
    if (client.clean) {
      filtersOf.set(client, (filtersOf.get(client) ?? new Set()).add(filter))
      ofConnections++
    }
    return null
  }

  return {
    problem,
    removed(client, filters) {
      const own = filtersOf.get(client)
      for (const filter of filters) if (own?.delete(filter)) ofConnections--
    },
    ended(client) {
      ofConnections -= filtersOf.get(client)?.size ?? 0
      filtersOf.delete(client)
    },
    get count() {
      return all()
    },
  }
}
