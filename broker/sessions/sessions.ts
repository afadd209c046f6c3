import type { Subscription } from 'aedes'
import { Qlobber } from 'qlobber'
import type { Millis } from '../../devices/reading.ts'
import type { Note, Sink } from '../../devices/sink.ts'
import type { Limits } from '../limits.ts'
import { createTopicCache } from '../matcher.ts'
import { createIncoming, type OpenExchanges } from './incoming.ts'
import { createNotes, decodeJson, decodeMessage, encodeJson, encodeMessage, sortNotes } from './notes.ts'
import { createOutgoing, type Message, type Queue, type QueuedPacket } from './outgoing.ts'
import { createRetained } from './retained.ts'

/** What a former run left behind. */
export interface Restored {
  handshakes: readonly OpenExchanges[]
  notes: readonly (readonly [key: string, value: Uint8Array])[]
}

/** What is remembered of a client that comes back: MQTT 3.1.1 §4.1 */
interface Session {
  /** Whose it is; empty: nobody's. */
  owner: string
  /** When its last connection ended; `null`: it is connected. */
  since: Millis | null
  subscriptions: Map<string, Subscription>
  queue: Queue
}

type KeptSession = { owner: string; since: Millis | null; subscriptions: Subscription[] }

export interface Subscriber extends Subscription {
  clientId: string
}

/** State of a message that is on disk before the message is acknowledged. */
export interface Prepared {
  notes: Note[]
  /** It is on disk. */
  kept(): void
}

const rules = { separator: '/', wildcard_one: '+', wildcard_some: '#', match_empty_levels: true }
const nobody: Subscriber[] = []

/** What the broker remembers of its clients, in memory and on disk. */
export function createSessions(sink: Sink, limits: Limits, restored: Restored) {
  const notes = createNotes(sink)
  const retained = createRetained(limits, notes)
  const outgoing = createOutgoing(limits, notes)
  const incoming = createIncoming(restored.handshakes)
  const sessions = new Map<string, Session>()
  const subscribers = new Qlobber<Subscriber>(rules)
  // By client and filter: a filter is taken out by the very object that was put in.
  const subscriberOf = new Map<string, Subscriber>()
  const subscribersOf = createTopicCache((topic) => subscribers.match(topic))
  const wills = new Map<string, QueuedPacket & { brokerId?: string }>()
  // By the payload, the one thing of a packet that stays the same object on its way through Aedes.
  const prepared = new WeakMap<
    object,
    { topic: string; entries: ReturnType<typeof outgoing.prepare>[]; message: Message }
  >()
  let expired = 0
  let damaged = 0
  const orphans = restore()

  function noteSession(client: string, { owner, since, subscriptions }: Session): void {
    const kept: KeptSession = { owner, since, subscriptions: [...subscriptions.values()] }
    notes.put('s', client, encodeJson(kept))
  }

  function make(client: string, owner: string): Session {
    const session = { owner, since: null, subscriptions: new Map(), queue: outgoing.openQueue(client, true) }
    sessions.set(client, session)
    noteSession(client, session)
    return session
  }

  function index(client: string, subscription: Subscription): void {
    if (subscription.qos === 0) return
    const entry = { clientId: client, ...subscription }
    subscriberOf.set(`${client}\n${subscription.topic}`, entry)
    subscribers.add(subscription.topic, entry)
  }

  function unsubscribe(client: string, session: Session, topic: string): void {
    session.subscriptions.delete(topic)
    const key = `${client}\n${topic}`
    const subscriber = subscriberOf.get(key)
    if (!subscriber) return
    subscribers.remove(topic, subscriber)
    subscriberOf.delete(key)
    subscribersOf.clear()
  }

  function remove(client: string): void {
    const session = sessions.get(client)
    if (!session) return
    for (const topic of [...session.subscriptions.keys()]) unsubscribe(client, session, topic)
    outgoing.empty(session.queue)
    sessions.delete(client)
    notes.drop('s', client)
  }

  /** One message per client, at the highest of the QoS that its overlapping filters allow. [MQTT-3.3.5-1] */
  function recipients(list: readonly { clientId: string; qos?: number }[]): Map<string, number> {
    const highest = new Map<string, number>()
    for (const { clientId, qos } of list) highest.set(clientId, Math.max(highest.get(clientId) ?? 0, qos ?? 2))
    return highest
  }

  /** What a former run noted. Who was connected by then has gone; the wills of those are answered. */
  function restore(): [client: string, will: QueuedPacket][] {
    const kinds = sortNotes(restored.notes)
    const now = Date.now()
    const each = (kind: keyof typeof kinds, take: (name: string, value: Uint8Array) => void): void => {
      for (const [name, value] of kinds[kind]) {
        try {
          take(name, value)
        } catch {
          damaged++
          notes.drop(kind, name)
        }
      }
    }
    each('s', (client, value) => {
      const { owner, since, subscriptions } = decodeJson<KeptSession>(value)
      const queue = outgoing.openQueue(client, true)
      const known = new Map(subscriptions.map((subscription) => [subscription.topic, subscription]))
      sessions.set(client, { owner, since: since ?? now, subscriptions: known, queue })
      for (const subscription of subscriptions) index(client, subscription)
    })
    each('m', outgoing.restoreMessage)
    kinds.q.sort(([one], [other]) => numberOf(one) - numberOf(other))
    each('q', (name, value) => {
      const session = sessions.get(name.slice(0, name.indexOf('\u0000')))
      if (!session) throw new Error('its session is not there')
      outgoing.restoreEntry(session.queue, numberOf(name), value)
    })
    outgoing.sweepMessages()
    each('r', retained.restore)
    const found: [string, QueuedPacket][] = []
    each('w', (client, value) => found.push([client, decodeMessage(value)]))
    return found
  }

  return {
    notes,
    retained,
    outgoing,
    incoming,
    wills: {
      /** Of connections that ended with a former run: each is to be published. */
      orphans,
      published(client: string): void {
        // The client may have come back and left another one.
        if (!wills.has(client)) notes.drop('w', client)
      },
      values: () => wills.values(),
      get: (client: string) => wills.get(client),
      put(client: string, will: QueuedPacket): void {
        wills.set(client, will)
        notes.put('w', client, encodeMessage(will))
      },
      drop(client: string) {
        const will = wills.get(client)
        wills.delete(client)
        notes.drop('w', client)
        return will
      },
    },

    get: (client: string): Session | undefined => sessions.get(client),
    entries: (): IterableIterator<[string, Session]> => sessions.entries(),
    /** Whose the session of a client is; `null`: nobody's. */
    ownerOf: (client: string): string | null => sessions.get(client)?.owner || null,
    /** There is one for the client, or room for a new one. */
    hasRoomFor: (client: string): boolean => sessions.has(client) || sessions.size < limits.maxSessions,
    /** A client comes that wants to be remembered; tells whether it was. */
    open(client: string, owner: string): boolean {
      const session = sessions.get(client)
      const present = session !== undefined || incoming.count(client) > 0
      const opened = session ?? make(client, owner)
      opened.since = null
      if (opened.owner !== owner) opened.owner = owner
      noteSession(client, opened)
      return present
    },
    /** The session of a client, made when there is none. */
    of: (client: string): Session => sessions.get(client) ?? make(client, ''),
    remove,
    connected(client: string): void {
      const session = sessions.get(client)
      if (session) session.since = null
    },
    /** The client's connection has ended. */
    connectionEnded(client: string): void {
      const session = sessions.get(client)
      if (!session) return
      session.since = Date.now()
      noteSession(client, session)
    },
    /** Forgets sessions, and messages that wait, whose time is over. */
    expire(now: Millis): void {
      const { maxQueuedAge, sessionExpiry } = limits
      for (const [client, session] of sessions) {
        if (maxQueuedAge > 0) outgoing.expire(session.queue, now - maxQueuedAge)
        const { since } = session
        if (since === null || sessionExpiry === 0 || since > now - sessionExpiry) continue
        remove(client)
        if (incoming.clear(client)) sink.discard(client)
        expired++
      }
    },

    subscribe(client: string, subscriptions: readonly Subscription[]): void {
      const session = sessions.get(client) ?? make(client, '')
      for (const subscription of subscriptions) {
        const known = session.subscriptions.get(subscription.topic)
        if (known?.qos === subscription.qos) continue
        unsubscribe(client, session, subscription.topic)
        session.subscriptions.set(subscription.topic, { ...subscription })
        index(client, subscription)
      }
      subscribersOf.clear()
      noteSession(client, session)
    },
    unsubscribe(client: string, topics: readonly string[]): void {
      const session = sessions.get(client)
      if (!session) return
      for (const topic of topics) unsubscribe(client, session, topic)
      noteSession(client, session)
    },
    subscribersOf: (topic: string): Subscriber[] => (subscriberOf.size === 0 ? nobody : subscribersOf.get(topic)),
    /** Whether a message on the topic would be kept for anybody. */
    isWanted: (topic: string): boolean => subscriberOf.size > 0 && subscribersOf.get(topic).length > 0,

    /**
     * What must be on disk before a message is acknowledged, besides its readings: that it is retained, and that it
     * waits for those who are remembered.
     */
    prepare(packet: QueuedPacket): Prepared | null {
      const { topic, payload, qos, retain } = packet
      const list = qos > 0 && subscriberOf.size > 0 ? subscribersOf.get(topic) : nobody
      if (typeof payload === 'string' || (!retain && list.length === 0)) return null
      const made: Note[] = []
      let enterRetained: (() => void) | null = null
      const message = outgoing.makeMessage(packet)
      const entries: ReturnType<typeof outgoing.prepare>[] = []
      notes.into(made, () => {
        if (retain) enterRetained = retained.prepare(packet)
        if (list.length > 0) outgoing.noteMessage(message)
        for (const [client, highest] of recipients(list)) {
          const { queue } = sessions.get(client) as Session
          entries.push(outgoing.prepare(queue, message, highest))
        }
      })
      prepared.set(payload, { topic, entries, message })
      return {
        notes: made,
        kept(): void {
          for (const entry of entries) {
            // The session may have ended meanwhile, and another one of its name have begun.
            if (sessions.get(entry.queue.client)?.queue === entry.queue) entry.enter()
            else entry.cancel()
          }
          if (list.length > 0 && message.waiting === 0) notes.drop('m', message.id)
          enterRetained?.()
        },
      }
    },
    /** Aedes hands a message over for those who are remembered. */
    enqueue(list: readonly { clientId: string; qos?: number }[], packet: QueuedPacket): void {
      const wanted = recipients(list)
      const before = typeof packet.payload === 'string' ? undefined : prepared.get(packet.payload)
      if (before?.topic === packet.topic) {
        for (const { queue, cancel } of before.entries) {
          if (wanted.delete(queue.client)) queue.latest = packet.brokerCounter
          else cancel()
        }
      }
      if (wanted.size === 0) return
      const message = outgoing.makeMessage(packet)
      for (const [client, qos] of wanted) {
        const { queue } = sessions.get(client) ?? make(client, '')
        queue.latest = packet.brokerCounter
        outgoing.enqueue(queue, message, qos)
      }
    },
    storeRetained(packet: QueuedPacket): void {
      const isRetained = typeof packet.payload !== 'string' && prepared.get(packet.payload)?.topic === packet.topic
      if (!isRetained) retained.prepare(packet)()
    },

    get figures() {
      const own = { sessions: sessions.size, sessionsExpired: expired, damaged, incoming: incoming.open }
      return { ...own, ...retained.figures, ...outgoing.figures }
    },
  }
}

export type Sessions = ReturnType<typeof createSessions>

function numberOf(name: string): number {
  return Number.parseInt(name.slice(name.indexOf('\u0000') + 1), 36)
}
