import type { AedesPublishPacket } from 'aedes'
import { type Guest, visitorOf } from './doorman.ts'
import { publishFrame, pubrelFrame } from './frames.ts'
import { isQuestion, type Listener, type Subscriber } from './matcher.ts'
import type { Message, Queue } from './sessions/outgoing.ts'
import type { Sessions } from './sessions/sessions.ts'
import { socketBuffer } from './writes.ts'

/*
 * What subscribers are sent. Aedes parses what they say, and delivers nothing: its own delivery knows neither which
 * identifiers are in flight nor what still waits, and leaves out what it takes for a repetition.
 *
 * At QoS 0 a message is written and forgotten. At QoS 1 and 2 each client has a queue, and everything goes through it:
 * that of a session, which is on disk, or that of a connection, which ends with it. So a message comes once, in its
 * order, under an identifier of its own, and whoever is slow has it waiting within the limits of his queue.
 */

/** What may wait in the connection of a subscriber that does not read, at QoS 0: thirty of them cost 30 MB. */
const maxUnsentBytes = 1024 * 1024

/** How much one client is sent, at QoS 1 and 2, before it acknowledges any of it. */
const maxInFlight = 1000

/** Sends to one connection what waits in a queue. */
interface Sender {
  queue: Queue
  wake(): void
  /** Up to this number it waited before the connection began. */
  before: number
  /** Bytes that wait for the disk to know their identifiers. */
  held: number
  /** It will be told when there is room again. */
  isFull: boolean
  /** To be called when everything has been sent. */
  waiting: (() => void)[]
}

/** What it needs of an Aedes client beyond its public face. */
export interface Recipient extends Guest {
  closed: boolean
  /** The filters that were granted. */
  subscriptions: Record<string, { qos: 0 | 1 | 2 }>
  sender?: Sender
  deliver0: Listener
  deliverQoS: Listener
  /** Who does not read on within a time is disconnected. */
  waitForDrain(done: (error?: Error | null) => void): void
}

export interface ForwardingOptions {
  sessions: Pick<Sessions, 'outgoing' | 'notes' | 'of' | 'get'>
  /** The QoS that a client's filters allow for a topic. */
  qosOf(client: Recipient, topic: string): 0 | 1 | 2
}

export function createForwarding({ sessions, qosOf }: ForwardingOptions) {
  const { outgoing, notes } = sessions
  let dropped = 0

  function write(client: Recipient, sender: Sender, frame: Uint8Array): void {
    if (client.conn.write(frame) || sender.isFull) return
    sender.isFull = true
    client.waitForDrain((error) => {
      sender.isFull = false
      if (!error) sender.wake()
    })
  }

  function writeLoosely(client: Recipient, sender: Sender, frame: Uint8Array): void {
    if (client.conn.writableLength > maxUnsentBytes) dropped++
    else write(client, sender, frame)
  }

  /** Sends what waits, as far as the connection takes it and the client acknowledges it. */
  function send(client: Recipient, sender: Sender): void {
    const { queue, before } = sender
    const exact: Buffer[] = []
    while (!client.closed && queue.sent < maxInFlight && client.conn.writableLength + sender.held < socketBuffer) {
      const entry = outgoing.take(queue)
      if (!entry) break
      const { message, qos, number, released, messageId } = entry
      const { topic, retain = false } = message.packet
      if (released) {
        write(client, sender, pubrelFrame(messageId as number))
      } else if (number <= before && !visitorOf(client).maySubscribe(topic)) {
        // What waited for a client may be what it was allowed then. A topic without wildcards is a filter.
        outgoing.remove(queue, entry)
      } else {
        const frame = publishFrame(message.packet, { qos, retain, ...outgoing.identify(queue, entry) })
        if (qos === 2 && queue.kept) {
          exact.push(frame)
          sender.held += frame.length
        } else write(client, sender, frame)
      }
    }
    if (exact.length > 0) keepAndWrite(client, sender, exact)
    if (!queue.unsent) for (const done of sender.waiting.splice(0)) setImmediate(done)
  }

  /** A crash must not make a client get a message of QoS 2 under another identifier, so the disk knows it first. */
  function keepAndWrite(client: Recipient, sender: Sender, frames: Buffer[]): void {
    const writeAll = (): void => {
      if (client.closed) return
      for (const frame of frames) {
        sender.held -= frame.length
        write(client, sender, frame)
      }
      send(client, sender)
    }
    notes
      .kept()
      .then(writeAll)
      .catch((error) => fail(client, error))
  }

  function fail(client: Recipient, error: unknown): void {
    if (!client.closed) client.emit('error', error)
  }

  /** What is retained, in answer to a SUBSCRIBE. The next message is asked for when this one has been sent. */
  function answer(client: Recipient, packet: AedesPublishPacket, done: () => void): void {
    const { sender } = client
    if (!sender || client.closed) return done()
    const qos = Math.min(packet.qos, qosOf(client, packet.topic))
    if (qos > 0) outgoing.enqueue(sender.queue, outgoing.makeMessage(packet, true), qos)
    else writeLoosely(client, sender, publishFrame(packet, { qos: 0, retain: true, dup: false, messageId: 0 }))
    if (sender.isFull || sender.queue.unsent) sender.waiting.push(done)
    else setImmediate(done)
  }

  return {
    /** From now on Aedes has nothing to deliver to the client. */
    adopt(given: Guest): void {
      const client = given as Recipient
      client.deliver0 = client.deliverQoS = (packet, done) => {
        if (isQuestion(packet)) done(client)
        else answer(client, packet as AedesPublishPacket, done)
      }
    },
    /** The client is let in; its CONNACK is written. [MQTT-3.2.0-1] */
    begin(given: Guest): void {
      const client = given as Recipient
      if (client.closed) return
      const queue = client.clean ? outgoing.openQueue(client.id, false) : sessions.of(client.id).queue
      const wake = (): void => {
        try {
          send(client, sender)
        } catch (error) {
          fail(client, error)
        }
      }
      const sender: Sender = { queue, wake, before: outgoing.connect(queue, wake), held: 0, isFull: false, waiting: [] }
      client.sender = sender
      wake()
    },
    /** Its connection has closed; its successor may have begun. */
    ended(given: Guest): void {
      const { sender, id } = given as Recipient
      if (!sender) return
      const { queue, wake } = sender
      if (queue.wake === wake) queue.wake = null
      if (!queue.kept || sessions.get(id)?.queue !== queue) outgoing.empty(queue)
    },
    /** Hands a message over to those who are here; each of them is there once, at the highest QoS of his filters. */
    publish(packet: AedesPublishPacket, subscribers: readonly Subscriber[]): void {
      let frame: Buffer | null = null
      let message: Message | null = null
      for (let i = 0; i < subscribers.length; i++) {
        const { client, qos } = subscribers[i] as Subscriber
        const { sender } = client
        if (!sender || client.closed) continue
        try {
          // A session has it already.
          if (packet.qos > 0 && sender.queue.latest === packet.brokerCounter) continue
          if (packet.qos > 0 && qos > 0) {
            message ??= outgoing.makeMessage(packet)
            outgoing.enqueue(sender.queue, message, qos)
          } else {
            frame ??= publishFrame(packet, { qos: 0, retain: false, dup: false, messageId: 0 })
            writeLoosely(client, sender, frame)
          }
        } catch (error) {
          fail(client, error)
        }
      }
    },
    /** Messages that a stalled subscriber did not get. */
    get dropped() {
      return dropped
    },
  }
}
