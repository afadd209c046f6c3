import type { AedesPublishPacket } from 'aedes'
import type { Millis } from '../../devices/reading.ts'
import type { Limits } from '../limits.ts'
import { decodeJson, decodeMessage, encodeJson, encodeMessage, type Notes } from './notes.ts'
import { ownCopy } from './retained.ts'

/** A packet in the broker: a PUBLISH, or the PUBREL that took its place. */
export type QueuedPacket = AedesPublishPacket & { messageId?: number | undefined; clientId?: string }

/** A message that waits for somebody, kept once for all who wait. */
export interface Message {
  id: string
  packet: AedesPublishPacket
  bytes: number
  waiting: number
}

/** A message that waits for one client. */
export interface Entry {
  message: Message
  qos: 0 | 1 | 2
  at: Millis
  /** The number of the broker under which Aedes knows the packet. */
  key: string
  messageId: number | undefined
  /** It was received, and its PUBREL is on the way. [MQTT-4.3.3-1] */
  released: boolean
  sent: boolean
  /** It was sent on a connection that has ended, so that the next time is a redelivery. */
  again: boolean
}

type KeptEntry = [message: string, qos: 0 | 1 | 2, at: Millis, messageId: number, state: 0 | 1 | 2]

/** What waits for one client: in the order of arrival, by a number that only grows. */
export interface Queue {
  client: string
  entries: Map<number, Entry>
  byKey: Map<string, number>
  byMessageId: Map<number, number>
  bytes: number
}

const entryBytes = 64

/** What waits for clients until they acknowledge it. */
export function createOutgoing(limits: Limits, notes: Notes) {
  const messages = new Map<string, Message>()
  let lastMessage = 0
  let lastEntry = 0
  let queued = 0
  let bytes = 0
  let dropped = 0
  let expired = 0

  const nameOf = (queue: Queue, number: number): string => `${queue.client}\u0000${number.toString(36)}`

  function noteEntry(queue: Queue, number: number, { message, qos, at, messageId, released, sent }: Entry): void {
    const state = released ? 2 : sent ? 1 : 0
    const kept: KeptEntry = [message.id, qos, at, messageId ?? 0, state]
    notes.put('q', nameOf(queue, number), encodeJson(kept))
  }

  /** The same for all who will wait for it; not on disk before `noteMessage`. */
  function makeMessage(packet: AedesPublishPacket): Message {
    const copy = copyOf(packet)
    const size = packet.payload.length + packet.topic.length + entryBytes
    return { id: (++lastMessage).toString(36), packet: copy, bytes: size, waiting: 0 }
  }

  function noteMessage({ id, packet }: Message): void {
    notes.put('m', id, encodeMessage(packet))
  }

  function makeEntry(message: Message, qos: number, key: string): Entry {
    const highest = Math.min(message.packet.qos, qos) as 0 | 1 | 2
    const waiting = { messageId: undefined, released: false, sent: false, again: false }
    return { message, qos: highest, at: Date.now(), key, ...waiting }
  }

  function insert(queue: Queue, number: number, entry: Entry): void {
    const { message, key, messageId } = entry
    messages.set(message.id, message)
    message.waiting++
    queue.entries.set(number, entry)
    queue.byKey.set(key, number)
    if (messageId !== undefined) queue.byMessageId.set(messageId, number)
    queue.bytes += message.bytes
    bytes += message.bytes
    queued++
  }

  function remove(queue: Queue, number: number): Entry | undefined {
    const entry = queue.entries.get(number)
    if (!entry) return undefined
    const { message, key, messageId } = entry
    queue.entries.delete(number)
    queue.byKey.delete(key)
    if (messageId !== undefined && queue.byMessageId.get(messageId) === number) queue.byMessageId.delete(messageId)
    queue.bytes -= message.bytes
    bytes -= message.bytes
    queued--
    notes.drop('q', nameOf(queue, number))
    if (--message.waiting === 0) {
      messages.delete(message.id)
      notes.drop('m', message.id)
    }
    return entry
  }

  /** The oldest go first, when too much waits for one client, or for all of them together. */
  function trim(queue: Queue): void {
    const { maxQueued, maxQueuedSize, maxQueuedTotal } = limits
    while (queue.entries.size > maxQueued || queue.bytes > maxQueuedSize || (bytes > maxQueuedTotal && queued > 0)) {
      const oldest = queue.entries.keys().next().value
      if (oldest === undefined) return
      remove(queue, oldest)
      dropped++
    }
  }

  function shown({ message, qos, key, messageId, released, again }: Entry): QueuedPacket {
    if (released) return { cmd: 'pubrel', messageId } as unknown as QueuedPacket
    const [brokerId = '', counter] = key.split(':')
    const identity = { brokerId, brokerCounter: Number(counter), messageId }
    // [MQTT-3.3.1-1]
    return { ...message.packet, qos, ...identity, dup: again } as QueuedPacket
  }

  return {
    openQueue: (client: string): Queue => {
      return { client, entries: new Map(), byKey: new Map(), byMessageId: new Map(), bytes: 0 }
    },
    makeMessage,
    noteMessage,
    /** Notes that a message will wait in a queue, and answers with what puts it there. */
    prepare(queue: Queue, message: Message, qos: number) {
      const number = ++lastEntry
      const entry = makeEntry(message, qos, `prepared:${number}`)
      noteEntry(queue, number, entry)
      return {
        queue,
        number,
        enter(): void {
          insert(queue, number, entry)
          trim(queue)
        },
        /** It shall not be there after all. */
        cancel(): void {
          if (!remove(queue, number)) notes.drop('q', nameOf(queue, number))
        },
      }
    },
    /** Aedes has given the packet of a prepared entry its number; by then the queue may have been too full for it. */
    bind(queue: Queue, number: number, packet: QueuedPacket): void {
      const entry = queue.entries.get(number)
      if (!entry) return
      queue.byKey.delete(entry.key)
      entry.key = keyOf(packet)
      queue.byKey.set(entry.key, number)
    },
    enqueue(queue: Queue, message: Message, qos: number, packet: QueuedPacket): void {
      const number = ++lastEntry
      const entry = makeEntry(message, qos, keyOf(packet))
      insert(queue, number, entry)
      noteEntry(queue, number, entry)
      trim(queue)
    },
    /** The packet is sent under an identifier, or its PUBREL is. `null`: it does not wait here. */
    update(queue: Queue, packet: QueuedPacket): Entry | null {
      const isPublish = packet.cmd === 'publish'
      const id = packet.messageId as number
      const number = isPublish ? queue.byKey.get(keyOf(packet)) : queue.byMessageId.get(id)
      const entry = number === undefined ? undefined : queue.entries.get(number)
      if (number === undefined || !entry) return null
      if (isPublish) {
        if (entry.messageId !== undefined && entry.messageId !== id) queue.byMessageId.delete(entry.messageId)
        entry.messageId = id
      } else {
        entry.released = true
      }
      entry.sent = true
      queue.byMessageId.set(id, number)
      noteEntry(queue, number, entry)
      return entry
    },
    acknowledged(queue: Queue, messageId: number | undefined): QueuedPacket | undefined {
      const number = messageId === undefined ? undefined : queue.byMessageId.get(messageId)
      const entry = number === undefined ? undefined : remove(queue, number)
      return entry && shown(entry)
    },
    packets: (queue: Queue): QueuedPacket[] => Array.from(queue.entries.values(), shown),
    /** The connection of its client has ended. */
    interrupted(queue: Queue): void {
      for (const entry of queue.entries.values()) entry.again = entry.sent
    },
    empty(queue: Queue): void {
      for (const number of [...queue.entries.keys()]) remove(queue, number)
    },
    /** Lets go of what waits since before a time. */
    expire(queue: Queue, before: Millis): void {
      for (const [number, { at }] of queue.entries) {
        if (at >= before) return
        remove(queue, number)
        expired++
      }
    },
    restoreMessage(id: string, value: Uint8Array): void {
      const packet = decodeMessage(value)
      const size = packet.payload.length + packet.topic.length + entryBytes
      messages.set(id, { id, packet, bytes: size, waiting: 0 })
      lastMessage = Math.max(lastMessage, Number.parseInt(id, 36))
    },
    restoreEntry(queue: Queue, number: number, value: Uint8Array): void {
      const [id, qos, at, messageId, state] = decodeJson<KeptEntry>(value)
      const message = messages.get(id)
      if (!message) throw new Error('its message is not there')
      lastEntry = Math.max(lastEntry, number)
      insert(queue, number, {
        message,
        qos,
        at,
        key: `restored:${number}`,
        messageId: messageId === 0 ? undefined : messageId,
        released: state === 2,
        sent: state > 0,
        again: state > 0,
      })
    },
    /** After all entries: messages for which nobody waits. */
    sweepMessages(): void {
      for (const [id, { waiting }] of messages) {
        if (waiting > 0) continue
        messages.delete(id)
        notes.drop('m', id)
      }
    },
    get figures() {
      return { queued, queuedBytes: bytes, queueDropped: dropped, queueExpired: expired }
    },
  }
}

function keyOf({ brokerId, brokerCounter }: QueuedPacket): string {
  return `${brokerId}:${brokerCounter}`
}

/** What is kept of a packet; without what the parser and the broker noted on it. */
function copyOf({ cmd, brokerId, brokerCounter, topic, payload, qos, retain, dup }: AedesPublishPacket): QueuedPacket {
  const kept = { cmd, brokerId, brokerCounter, topic, payload: ownCopy(payload), qos }
  return { ...kept, retain: retain ?? false, dup: dup ?? false, messageId: undefined } as unknown as QueuedPacket
}
