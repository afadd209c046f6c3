import { Readable } from 'node:stream'
import type { Aedes, AedesPublishPacket, Subscription } from 'aedes'
import { Qlobber } from 'qlobber'
import { emptyDelivery, type Sink } from '../devices/sink.ts'
import type { Limits } from './limits.ts'
import { compileFilter, createTopicCache } from './matcher.ts'
import type { Subscriptions } from './subscriptions.ts'

/*
 * What the broker remembers of its clients between two of their packets, in the form that Aedes expects of its
 * persistence (that of aedes-persistence 11). Subscriptions, retained messages, offline queues and wills live in memory
 * and end with the process; inbound QoS 2 exchanges are durable, because a reading must not be stored twice.
 */

/** A packet in the broker: a PUBLISH, or the PUBREL that took its place. */
export type QueuedPacket = AedesPublishPacket & { messageId?: number | undefined; clientId?: string }

interface Queued {
  packet: QueuedPacket
  bytes: number
  sent: boolean
  /** It was sent on a connection that has ended, so that the next time is a redelivery. */
  again: boolean
}

interface Session {
  subscriptions: Map<string, Subscription>
  /** In the order of delivery, by the broker's own number of the packet. */
  queue: Map<string, Queued>
  byMessageId: Map<number, string>
  queuedBytes: number
}

/** An inbound QoS 2 exchange. It is not `known` to Aedes until its first PUBLISH has passed, which is new to it. */
interface Incoming {
  digest: number
  known: boolean
}

interface Subscriber extends Subscription {
  clientId: string
}

/** The exchanges of one client that a former run left behind. */
export type OpenExchanges = readonly [client: string, open: readonly (readonly [packetId: number, digest: number])[]]

type ClientId = { id: string }
type WithId = { messageId?: number | undefined }

const rules = { separator: '/', wildcard_one: '+', wildcard_some: '#', match_empty_levels: true }
// A rejection is the ordinary answer to "is this packet new?"; an Error with its stack cost half of all QoS 2 work.
const unknown = new Error('no such packet')
const nobody: Subscriber[] = []

export interface Sessions {
  /**
   * Notes a QoS 2 exchange before its commit; false when the PUBLISH repeats one that is known. The digest decides and
   * not DUP, which clients forget to set: a device that lost its memory uses the same identifiers for new messages,
   * and those must not be lost.
   */
  beginIncoming(client: string, packetId: number, digest: number): boolean
  /**
   * What to do with an exchange that is open now, once its commit is done: note that a PUBREL may come, or end it. By
   * then the identifier may be in use for another one, which is left alone.
   */
  storing(client: string, packetId: number): () => void
  ending(client: string, packetId: number): () => void
  /** The commit of the exchange was refused. */
  endIncoming(client: string, packetId: number): void
  hasIncoming(client: string, packetId: number): boolean
  /** How many exchanges of a client are open. */
  openIncoming(client: string): number
  /** Whether a message on the topic would be kept for anybody. */
  isWanted(topic: string): boolean
  /** The client's connection has ended: what was sent on it and not acknowledged is sent again on the next one. */
  connectionEnded(client: string): void
  readonly figures: {
    retained: number
    sessions: number
    queued: number
    queueDropped: number
    retainedDropped: number
    incoming: number
  }
}

/** `open` holds the QoS 2 exchanges that a former run left behind. */
export function createSessions(
  sink: Sink,
  limits: Limits,
  open: readonly OpenExchanges[],
  { problem }: Pick<Subscriptions, 'problem'>,
) {
  const retained = new Map<string, AedesPublishPacket>()
  let retainedBytes = 0
  const sessions = new Map<string, Session>()
  const subscribers = new Qlobber<Subscriber>(rules)
  // By client and filter: a filter is taken out by the very object that was put in.
  const subscriberOf = new Map<string, Subscriber>()
  const subscribersOf = createTopicCache((topic) => subscribers.match(topic))
  const wills = new Map<string, QueuedPacket & { brokerId?: string }>()
  // Aedes stores a SUBSCRIBE whole for each filter that it grants of it: once is enough.
  const stored = new WeakMap<Subscription[], string>()
  const incoming = new Map<string, Map<number, Incoming>>()
  for (const [client, ids] of open) {
    incoming.set(client, new Map(ids.map(([id, digest]) => [id, { digest, known: true }])))
  }
  let broker: Aedes | null = null
  let queued = 0
  let queueDropped = 0
  let retainedDropped = 0

  function sessionOf(client: string): Session {
    let session = sessions.get(client)
    if (!session) {
      session = { subscriptions: new Map(), queue: new Map(), byMessageId: new Map(), queuedBytes: 0 }
      sessions.set(client, session)
    }
    return session
  }

  function dropIfEmpty(client: string, session: Session): void {
    if (session.subscriptions.size === 0 && session.queue.size === 0) sessions.delete(client)
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

  function dequeue(session: Session, key: string): QueuedPacket | undefined {
    const entry = session.queue.get(key)
    if (!entry) return undefined
    session.queue.delete(key)
    session.queuedBytes -= entry.bytes
    queued--
    if (entry.packet.messageId !== undefined) session.byMessageId.delete(entry.packet.messageId)
    return entry.packet
  }

  function enqueue(client: string, packet: QueuedPacket, qos: number): void {
    const session = sessionOf(client)
    const bytes = packet.payload.length + packet.topic.length + 64
    const copy = { ...copyOf(packet), qos: Math.min(packet.qos, qos) as 0 | 1 | 2 }
    session.queue.set(keyOf(packet), { packet: copy, bytes, sent: false, again: false })
    session.queuedBytes += bytes
    queued++
    while (session.queue.size > limits.maxQueued || session.queuedBytes > limits.maxQueuedSize) {
      const oldest = session.queue.keys().next().value as string
      dequeue(session, oldest)
      queueDropped++
    }
  }

  const persistence = {
    async setup(aedes: Aedes): Promise<void> {
      broker = aedes
    },
    get broker() {
      return broker
    },

    async storeRetained(packet: AedesPublishPacket): Promise<void> {
      const before = retained.get(packet.topic)
      retained.delete(packet.topic)
      retainedBytes -= before?.payload.length ?? 0
      if (packet.payload.length === 0) return
      if (retained.size >= limits.maxRetained || retainedBytes > limits.maxRetainedSize) {
        retainedDropped++
        return
      }
      retained.set(packet.topic, { ...packet, payload: ownCopy(packet.payload) })
      retainedBytes += packet.payload.length
    },
    createRetainedStream: (filter: string) => Readable.from(retainedBy([filter])),
    createRetainedStreamCombi: (filters: string[]) => Readable.from(retainedBy(filters)),

    async addSubscriptions(client: ClientId, subscriptions: Subscription[]): Promise<void> {
      if (stored.get(subscriptions) === client.id) return
      stored.set(subscriptions, client.id)
      const session = sessionOf(client.id)
      for (const subscription of subscriptions) {
        // It holds also the filters that were refused.
        if (problem(client, subscription.topic) !== null) continue
        const known = session.subscriptions.get(subscription.topic)
        if (known?.qos === subscription.qos) continue
        unsubscribe(client.id, session, subscription.topic)
        session.subscriptions.set(subscription.topic, { ...subscription })
        if (subscription.qos === 0) continue
        const entry = { clientId: client.id, ...subscription }
        subscriberOf.set(`${client.id}\n${subscription.topic}`, entry)
        subscribers.add(subscription.topic, entry)
      }
      subscribersOf.clear()
    },
    async removeSubscriptions(client: ClientId, topics: string[]): Promise<void> {
      const session = sessions.get(client.id)
      if (!session) return
      for (const topic of topics) unsubscribe(client.id, session, topic)
      dropIfEmpty(client.id, session)
    },
    async subscriptionsByClient(client: ClientId): Promise<Subscription[]> {
      return [...(sessions.get(client.id)?.subscriptions.values() ?? [])]
    },
    async countOffline(): Promise<{ subsCount: number; clientsCount: number }> {
      const withSubscriptions = [...sessions.values()].filter(({ subscriptions }) => subscriptions.size > 0)
      return { subsCount: subscriberOf.size, clientsCount: withSubscriptions.length }
    },
    // Asked for every QoS 1 and 2 publish, and answered from memory: a late answer would change the order of deliveries.
    subscriptionsByTopic(topic: string): Promise<Subscriber[]> {
      return Promise.resolve(subscriberOf.size === 0 ? nobody : subscribersOf.get(topic))
    },
    async cleanSubscriptions(client: ClientId): Promise<void> {
      const session = sessions.get(client.id)
      if (!session) return
      for (const topic of [...session.subscriptions.keys()]) unsubscribe(client.id, session, topic)
      for (const key of [...session.queue.keys()]) dequeue(session, key)
      sessions.delete(client.id)
    },

    async outgoingEnqueue(subscriber: { clientId: string; qos?: number }, packet: QueuedPacket): Promise<void> {
      enqueue(subscriber.clientId, packet, subscriber.qos ?? 2)
    },
    outgoingEnqueueCombi(list: Subscriber[], packet: QueuedPacket): Promise<void> {
      // One message per client, at the highest of the QoS that its overlapping filters allow. [MQTT-3.3.5-1]
      const highest = new Map<string, number>()
      for (const { clientId, qos } of list) highest.set(clientId, Math.max(highest.get(clientId) ?? 0, qos ?? 2))
      for (const [clientId, qos] of highest) enqueue(clientId, packet, qos)
      return Promise.resolve()
    },
    async outgoingUpdate(client: ClientId, packet: QueuedPacket): Promise<void> {
      const session = sessions.get(client.id)
      const isPublish = packet.cmd === 'publish'
      // A PUBREL carries nothing but the identifier of the PUBLISH that it follows. [MQTT-4.3.3-1]
      const key = isPublish ? keyOf(packet) : session?.byMessageId.get(packet.messageId as number)
      const entry = key === undefined ? undefined : session?.queue.get(key)
      if (!session || !entry || key === undefined) throw unknown
      if (isPublish) {
        if (entry.packet.messageId !== undefined) session.byMessageId.delete(entry.packet.messageId)
        entry.packet.messageId = packet.messageId as number
      } else {
        entry.packet = packet
      }
      entry.sent = true
      session.byMessageId.set(packet.messageId as number, key)
    },
    async outgoingClearMessageId(client: ClientId, { messageId }: WithId): Promise<QueuedPacket | undefined> {
      const session = sessions.get(client.id)
      const key = messageId === undefined ? undefined : session?.byMessageId.get(messageId)
      if (!session || key === undefined) return undefined
      const packet = dequeue(session, key)
      dropIfEmpty(client.id, session)
      return packet
    },
    outgoingStream(client: ClientId): Readable {
      const entries = [...(sessions.get(client.id)?.queue.values() ?? [])]
      // [MQTT-3.3.1-1]
      return Readable.from(
        entries.map(({ packet, again }) => (again && packet.cmd === 'publish' ? { ...packet, dup: true } : packet)),
      )
    },

    incomingStorePacket({ id, closed }: ClientId & { closed?: boolean }, packet: WithId): Promise<void> {
      const packetId = packet.messageId as number
      // The commit may end after the connection, and with that a clean session.
      if (!closed && !api.hasIncoming(id, packetId)) incomingOf(id).set(packetId, { digest: 0, known: true })
      storing(id, packetId)()
      return Promise.resolve()
    },
    incomingGetPacket(client: ClientId, packet: WithId): Promise<WithId> {
      return incoming.get(client.id)?.get(packet.messageId as number)?.known
        ? Promise.resolve({ messageId: packet.messageId })
        : Promise.reject(unknown)
    },
    // PUBCOMP follows when this resolves, so the identifier may be used again only after the disk knows.
    incomingDelPacket(client: ClientId, { messageId }: WithId): Promise<void> {
      const packetId = messageId as number
      if (!incoming.get(client.id)?.has(packetId)) return Promise.reject(unknown)
      return new Promise((resolve, reject) => {
        const delivery = emptyDelivery('')
        const end = ending(client.id, packetId)
        delivery.handshakes.push({ client: client.id, packetId, digest: null })
        sink.accept(delivery, ({ failure }) => {
          if (failure !== null) return reject(new Error(failure))
          end()
          resolve()
        })
      })
    },
    async cleanIncoming(client: ClientId): Promise<void> {
      if (incoming.delete(client.id)) sink.discard(client.id)
    },

    async putWill(client: ClientId, packet: QueuedPacket): Promise<void> {
      wills.set(client.id, Object.assign(packet, { brokerId: broker?.id ?? '', clientId: client.id }))
    },
    getWill: async (client: ClientId) => wills.get(client.id),
    async delWill(client: ClientId) {
      const will = wills.get(client.id)
      wills.delete(client.id)
      return will
    },
    streamWill: (brokers: Record<string, unknown> = {}) =>
      Readable.from([...wills.values()].filter(({ brokerId }) => !brokers[brokerId ?? ''])),
    getClientList: (topic: string) =>
      Readable.from(
        [...sessions].filter(([, { subscriptions }]) => subscriptions.has(topic)).map(([client]) => client),
      ),
    async destroy(): Promise<void> {
      retained.clear()
      sessions.clear()
    },
  }

  function* retainedBy(filters: string[]) {
    for (const filter of filters) {
      const exact = retained.get(filter)
      if (exact) yield exact
      if (!filter.includes('+') && !filter.includes('#')) continue
      const matches = compileFilter(filter)
      for (const [topic, packet] of retained) if (matches(topic)) yield packet
    }
  }

  function incomingOf(client: string): Map<number, Incoming> {
    let ids = incoming.get(client)
    if (!ids) {
      ids = new Map()
      incoming.set(client, ids)
    }
    return ids
  }

  function storing(client: string, packetId: number): () => void {
    const exchange = incoming.get(client)?.get(packetId)
    return () => {
      if (exchange) exchange.known = true
    }
  }

  function ending(client: string, packetId: number): () => void {
    const exchange = incoming.get(client)?.get(packetId)
    return () => {
      if (exchange && incoming.get(client)?.get(packetId) === exchange) endIncoming(client, packetId)
    }
  }

  function endIncoming(client: string, packetId: number): void {
    const ids = incoming.get(client)
    ids?.delete(packetId)
    if (ids?.size === 0) incoming.delete(client)
  }

  const api: Sessions = {
    beginIncoming(client, packetId, digest) {
      const ids = incomingOf(client)
      if (ids.get(packetId)?.digest === digest) return false
      ids.set(packetId, { digest, known: false })
      return true
    },
    storing,
    ending,
    endIncoming,
    hasIncoming: (client, packetId) => incoming.get(client)?.has(packetId) ?? false,
    openIncoming: (client) => incoming.get(client)?.size ?? 0,
    isWanted: (topic) => subscriberOf.size > 0 && subscribersOf.get(topic).length > 0,
    connectionEnded(client) {
      for (const entry of sessions.get(client)?.queue.values() ?? []) entry.again = entry.sent
    },
    get figures() {
      let open = 0
      for (const ids of incoming.values()) open += ids.size
      return { retained: retained.size, sessions: sessions.size, queued, queueDropped, retainedDropped, incoming: open }
    },
  }
  return Object.assign(persistence, { sessions: api })
}

/** What is kept of a packet; without what the parser and the broker noted on it. */
function copyOf({ cmd, brokerId, brokerCounter, topic, payload, qos, retain, dup }: QueuedPacket): QueuedPacket {
  const kept = {
    cmd,
    brokerId,
    brokerCounter,
    topic,
    payload: ownCopy(payload),
    qos,
    retain: retain ?? false,
    dup: dup ?? false,
  }
  return Object.assign(kept, { messageId: undefined }) as unknown as QueuedPacket
}

// A payload is a piece of what one read of the socket brought; kept as it is, it would keep all of that in memory.
function ownCopy(payload: string | Buffer): string | Buffer {
  return typeof payload === 'string' ? payload : Buffer.from(payload)
}

function keyOf({ brokerId, brokerCounter }: QueuedPacket): string {
  return `${brokerId}:${brokerCounter}`
}
