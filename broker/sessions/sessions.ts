import type { Subscription } from 'aedes'
import type { Millis } from '../../devices/reading.ts'
import type { Note, Sink } from '../../devices/sink.ts'
import type { Limits } from '../limits.ts'
import { createIncoming, type OpenExchanges } from './incoming.ts'
import { createNotes, decodeJson, encodeJson, sortNotes } from './notes.ts'
import { createOutgoing, type Message, type Queue, type QueuedPacket } from './outgoing.ts'
import { createRetained } from './retained.ts'
import { createSubscribers, type Subscriber } from './subscribers.ts'
import { createWills } from './wills.ts'

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
  /** Its connection, that of the last one who took it over. */
  connection: object | null
  subscriptions: Map<string, Subscription>
  queue: Queue
}

type KeptSession = { owner: string; since: Millis | null }

/** State of a message that is on disk before the message is acknowledged. */
export interface Prepared {
  notes: Note[]
  /** It is on disk. */
  kept(): void
}

const nobody: Subscriber[] = []

/** What the broker remembers of its clients, in memory and on disk. */
export function createSessions(sink: Sink, limits: Limits, restored: Restored) {
  const notes = createNotes(sink)
  const retained = createRetained(limits, notes)
  const outgoing = createOutgoing(limits, notes)
  const sessions = new Map<string, Session>()
  const subscribers = createSubscribers()
  const wills = createWills(notes)
  // By the payload, the one thing of a packet that stays the same object on its way through Aedes.
  const prepared = new WeakMap<
    object,
    { topic: string; entries: ReturnType<typeof outgoing.prepare>[]; message: Message }
  >()
  let expired = 0
  let damaged = 0
  let filters = 0
  restore()
  // An exchange ends with its session, and a clean session has ended with its connection. [MQTT-3.1.2-6]
  const incoming = createIncoming(restored.handshakes.filter(([client]) => sessions.has(client)))
  for (const [client] of restored.handshakes) if (!sessions.has(client)) sink.discard(client)

  function noteSession(client: string, { owner, since }: Session): void {
    const kept: KeptSession = { owner, since }
    notes.put('s', client, encodeJson(kept))
  }

  function make(client: string, owner: string): Session {
    // Who has not come in may never do.
    const queue = outgoing.openQueue(client, true)
    const session: Session = { owner, since: Date.now(), connection: null, subscriptions: new Map(), queue }
    sessions.set(client, session)
    noteSession(client, session)
    return session
  }

  function enterFilter(client: string, session: Session, subscription: Subscription): void {
    if (!session.subscriptions.has(subscription.topic)) filters++
    session.subscriptions.set(subscription.topic, subscription)
    subscribers.put(client, subscription)
  }

  // A note for each filter: a client may have thousands of them, and change one.
  function subscribe(client: string, session: Session, subscription: Subscription): void {
    const { topic, ...options } = subscription
    if (session.subscriptions.get(topic)?.qos === options.qos) return
    enterFilter(client, session, { ...subscription })
    notes.put('f', nameOf(client, topic), encodeJson(options))
  }

  function unsubscribe(client: string, session: Session, topic: string): void {
    if (!session.subscriptions.delete(topic)) return
    filters--
    subscribers.remove(client, topic)
    notes.drop('f', nameOf(client, topic))
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
  function restore(): void {
    const kinds = sortNotes(restored.notes)
    const now = Date.now()
    const sessionOf = (client: string): Session => {
      const session = sessions.get(client)
      if (!session) throw new Error('its session is not there')
      return session
    }
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
      const { owner, since } = decodeJson<KeptSession>(value)
      const queue = outgoing.openQueue(client, true)
      sessions.set(client, { owner, since: since ?? now, connection: null, subscriptions: new Map(), queue })
    })
    each('f', (name, value) => {
      const [client, topic] = partsOf(name)
      enterFilter(client, sessionOf(client), { topic, ...decodeJson<Omit<Subscription, 'topic'>>(value) })
    })
    each('m', outgoing.restoreMessage)
    kinds.q.sort(([one], [other]) => numberOf(one) - numberOf(other))
    each('q', (name, value) => {
      outgoing.restoreEntry(sessionOf(partsOf(name)[0]).queue, numberOf(name), value)
    })
    outgoing.sweepMessages()
    each('r', retained.restore)
    each('w', wills.restore)
  }

  return {
    notes,
    retained,
    outgoing,
    incoming,
    wills,

    get: (client: string): Session | undefined => sessions.get(client),
    entries: (): IterableIterator<[string, Session]> => sessions.entries(),
    /** Whose the session of a client is; `null`: nobody's. */
    ownerOf: (client: string): string | null => sessions.get(client)?.owner || null,
    /** There is one for the client, or room for a new one. */
    hasRoomFor: (client: string): boolean => sessions.has(client) || sessions.size < limits.maxSessions,
    /** A client comes that wants to be remembered; tells whether it was. */
    open(client: string, owner: string): boolean {
      const session = sessions.get(client)
      if (!session) make(client, owner)
      else if (session.owner !== owner) {
        session.owner = owner
        noteSession(client, session)
      }
      return session !== undefined
    },
    /** The session of a client, made when there is none. */
    of: (client: string): Session => sessions.get(client) ?? make(client, ''),
    remove,
    /** A connection begins. */
    connected(client: { id: string }): void {
      const session = sessions.get(client.id)
      if (!session) return
      session.since = null
      session.connection = client
      noteSession(client.id, session)
    },
    connectionEnded(client: { id: string }): void {
      const session = sessions.get(client.id)
      // It may have been taken over by then.
      if (session?.connection !== client) return
      session.since = Date.now()
      session.connection = null
      noteSession(client.id, session)
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
      for (const subscription of subscriptions) subscribe(client, session, subscription)
    },
    unsubscribe(client: string, topics: readonly string[]): void {
      const session = sessions.get(client)
      if (!session) return
      for (const topic of topics) unsubscribe(client, session, topic)
    },
    /** Filters of all sessions. */
    get filters() {
      return filters
    },
    subscribersOf: subscribers.of,
    /** Whether a message on the topic would be kept for anybody. */
    isWanted: (topic: string): boolean => subscribers.of(topic).length > 0,

    /**
     * What must be on disk before a message is acknowledged, besides its readings: that it is retained, and that it
     * waits for those who are remembered.
     */
    prepare(packet: QueuedPacket): Prepared | null {
      const { topic, payload, qos, retain } = packet
      const list = qos > 0 ? subscribers.of(topic) : nobody
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
      // What a client publishes was prepared before.
      if (!isRetained) retained.prepare(packet, true)()
    },

    get figures() {
      const own = { sessions: sessions.size, sessionsExpired: expired, damaged, incoming: incoming.open }
      return { ...own, ...retained.figures, ...outgoing.figures, ...wills.figures }
    },
  }
}

export type Sessions = ReturnType<typeof createSessions>

/** A note of something of a client's: neither its id nor a topic filter holds the character in between. */
function nameOf(client: string, part: string): string {
  return `${client}\u0000${part}`
}

function partsOf(name: string): [client: string, part: string] {
  const end = name.indexOf('\u0000')
  return [name.slice(0, end), name.slice(end + 1)]
}

function numberOf(name: string): number {
  return Number.parseInt(partsOf(name)[1], 36)
}
