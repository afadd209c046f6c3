import { Readable } from 'node:stream'
import type { Aedes, AedesPublishPacket, Client, Subscription } from 'aedes'
import { emptyDelivery, type Sink } from '../../devices/sink.ts'
import type { Recipient } from '../forwarding.ts'
import type { Queue, QueuedPacket } from './outgoing.ts'
import type { Sessions } from './sessions.ts'
import type { Subscriber } from './subscribers.ts'

type ClientId = { id: string }
type WithId = { messageId?: number | undefined }

// A rejection is the ordinary answer to "is this packet new?"; an Error with its stack cost half of all QoS 2 work.
const unknown = new Error('no such packet')

/** The sessions in the form that Aedes expects of its persistence (that of aedes-persistence 11). */
export function createPersistence(
  sessions: Sessions,
  sink: Sink,
  mayHave: (client: Client, filter: string) => boolean,
) {
  const { notes, retained, outgoing, incoming, wills } = sessions
  // Aedes stores a SUBSCRIBE whole for each filter that it grants of it: once is enough.
  const stored = new WeakMap<Subscription[], string>()
  let broker: Aedes | null = null

  const queueOf = (client: ClientId): Queue | undefined =>
    (client as Recipient).sender?.queue ?? sessions.get(client.id)?.queue

  return {
    async setup(aedes: Aedes): Promise<void> {
      broker = aedes
    },
    get broker() {
      return broker
    },

    storeRetained: (packet: AedesPublishPacket): Promise<void> => atOnce(() => sessions.storeRetained(packet)),
    createRetainedStream: (filter: string) => retained.stream([filter]),
    createRetainedStreamCombi: (filters: string[]) => retained.stream(filters),

    // SUBACK follows when this resolves.
    async addSubscriptions(client: ClientId & { closed?: boolean }, subscriptions: Subscription[]): Promise<void> {
      // Somebody with a clean session has taken over: there is nothing to remember.
      if (client.closed && !sessions.get(client.id)) return
      if (stored.get(subscriptions) === client.id) return
      stored.set(subscriptions, client.id)
      // They hold also the filters that were refused; and each one that is granted counts for those after it.
      notes.together(() => {
        for (const subscription of subscriptions) {
          if (mayHave(client as Client, subscription.topic)) sessions.subscribe(client.id, [subscription])
        }
      })
      await notes.kept()
    },
    async removeSubscriptions(client: ClientId, topics: string[]): Promise<void> {
      notes.together(() => sessions.unsubscribe(client.id, topics))
      await notes.kept()
    },
    async subscriptionsByClient(client: ClientId): Promise<Subscription[]> {
      return [...(sessions.get(client.id)?.subscriptions.values() ?? [])]
    },
    async countOffline(): Promise<{ subsCount: number; clientsCount: number }> {
      const counts = { subsCount: 0, clientsCount: 0 }
      for (const [, { subscriptions }] of sessions.entries()) {
        if (subscriptions.size > 0) counts.clientsCount++
        for (const { qos } of subscriptions.values()) if (qos > 0) counts.subsCount++
      }
      return counts
    },
    subscriptionsByTopic: (topic: string): Promise<Subscriber[]> => atOnce(() => sessions.subscribersOf(topic)),
    async cleanSubscriptions(client: ClientId): Promise<void> {
      sessions.remove(client.id)
    },

    async outgoingEnqueue(subscriber: { clientId: string; qos?: number }, packet: QueuedPacket): Promise<void> {
      sessions.enqueue([subscriber], packet)
    },
    outgoingEnqueueCombi: (list: Subscriber[], packet: QueuedPacket): Promise<void> =>
      atOnce(() => sessions.enqueue(list, packet)),
    // PUBREL follows when this resolves. It is owed for whatever the client has received, also when that is forgotten here.
    async outgoingUpdate(client: ClientId, packet: QueuedPacket): Promise<void> {
      const queue = queueOf(client)
      if (!queue) return
      if (packet.cmd === 'publish') outgoing.rename(queue, packet)
      else outgoing.release(queue, packet.messageId as number)
      await notes.kept()
    },
    async outgoingClearMessageId(client: ClientId, { messageId }: WithId): Promise<QueuedPacket | undefined> {
      const queue = queueOf(client)
      return queue && outgoing.acknowledged(queue, messageId)
    },
    outgoingStream(client: ClientId): Readable {
      const queue = queueOf(client)
      return Readable.from(queue ? outgoing.packets(queue) : [])
    },

    async incomingStorePacket({ id, closed }: ClientId & { closed?: boolean }, packet: QueuedPacket): Promise<void> {
      // The commit may end after the connection, and with that a clean session.
      incoming.passed(id, packet, !closed)
    },
    incomingGetPacket(client: ClientId, packet: WithId): Promise<WithId> {
      const known = incoming.stored(client.id, packet.messageId as number)
      return known ? Promise.resolve(known) : Promise.reject(unknown)
    },
    // PUBCOMP follows when this resolves, so the identifier may be used again only after the disk knows.
    incomingDelPacket(client: ClientId, { messageId }: WithId): Promise<void> {
      const packetId = messageId as number
      if (!incoming.has(client.id, packetId)) return Promise.reject(unknown)
      return new Promise((resolve, reject) => {
        const delivery = emptyDelivery('')
        const end = incoming.ending(client.id, packetId)
        delivery.handshakes.push({ client: client.id, packetId, digest: null })
        sink.accept(delivery, ({ failure }) => {
          if (failure !== null) return reject(new Error(failure))
          end()
          resolve()
        })
      })
    },
    async cleanIncoming(client: ClientId): Promise<void> {
      if (incoming.clear(client.id)) sink.discard(client.id)
    },

    async putWill(client: ClientId, packet: QueuedPacket): Promise<void> {
      wills.put(client, Object.assign(packet, { brokerId: broker?.id ?? '', clientId: client.id }))
    },
    getWill: async (client: ClientId) => wills.get(client.id),
    async delWill(client: ClientId) {
      // Aedes calls this, and then lets go of the will, in the same turn.
      await null
      return wills.drop(client.id)
    },
    streamWill: (brokers: Record<string, unknown> = {}) =>
      Readable.from(wills.values().filter(({ brokerId }) => !brokers[brokerId ?? ''])),
    getClientList: (topic: string) =>
      Readable.from(
        [...sessions.entries()].filter(([, { subscriptions }]) => subscriptions.has(topic)).map(([client]) => client),
      ),
    async destroy(): Promise<void> {
      retained.clear()
    },
  }
}

/**
 * Aedes asks nothing but `then` of what lies between a message and its delivery. A promise would answer later, and a
 * message that needs more answers than another one, as those that are retained do, would come after its successor.
 * [MQTT-4.6.0-6]
 */
function atOnce<T>(task: () => T): Promise<T> {
  try {
    const value = task()
    // biome-ignore lint/suspicious/noThenProperty: that is the point of it
    return { then: (take: (value: T) => unknown) => take(value) } as unknown as Promise<T>
  } catch (error) {
    return Promise.reject(error)
  }
}
