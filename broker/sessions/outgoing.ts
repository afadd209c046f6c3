import type { AedesPublishPacket } from 'aedes'
import type { Millis } from '../../devices/reading.ts'
import type { Limits } from '../limits.ts'
import { decodeJson, decodeMessage, encodeJson, encodeMessage, type Notes } from './notes.ts'
import { ownCopy } from './retained.ts'

/** A packet in the broker: a PUBLISH, or the PUBREL that took its place. */
export type QueuedPacket = AedesPublishPacket & { messageId?: number | undefined; clientId?: string }

/** A message that waits for somebody, once for all who wait. */
export interface Message {
  id: string
  packet: AedesPublishPacket
  bytes: number
  waiting: number
  /** It is on disk, or will be with the next commit. */
  noted: boolean
}

/** A message that waits for one client. */
export interface Entry {
  /** They only grow, in the order of arrival. */
  number: number
  message: Message
  qos: 0 | 1 | 2
  at: Millis
  /** The packet identifier under which it was sent first, and is sent again. */
  messageId: number | undefined
  /** It was received, and its PUBREL is on the way. [MQTT-4.3.3-1] */
  released: boolean
  /** It was sent on the connection that is open now. */
  sent: boolean
  /** Its neighbours in the queue that it is in. */
  inside: boolean
  previous: Entry | null
  next: Entry | null
}

type KeptEntry = [message: string, qos: 0 | 1 | 2, at: Millis, messageId: number, state: 0 | 1 | 2]

/** What waits for one client until the client has acknowledged it, in the order of arrival. */
export interface Queue {
  readonly client: string
  /** On disk too: its client is remembered when the connection has ended. */
  readonly kept: boolean
  first: Entry | null
  last: Entry | null
  /** The first that was not sent on the connection that is open now; all before it were. */
  unsent: Entry | null
  readonly byMessageId: Map<number, Entry>
  length: number
  bytes: number
  /** How many were sent on the connection that is open now. */
  sent: number
  lastId: number
  /** The number that Aedes gave to the last packet that was put in. */
  latest: number
  /** There may be something to send, on the connection that is open now. */
  wake: (() => void) | null
}

const entryBytes = 64
const maxMessageId = 65_535

/** What waits for clients until they acknowledge it. */
export function createOutgoing(limits: Limits, notes: Notes) {
  // Those in which something waits.
  const queues = new Set<Queue>()
  // Of a former run, until their entries are restored.
  const restoring = new Map<string, Message>()
  let largest: Queue | null = null
  let enough = 0
  let lastMessage = 0
  let lastEntry = 0
  let queued = 0
  let bytes = 0
  let dropped = 0
  let expired = 0

  const nameOf = (queue: Queue, number: number): string => `${queue.client}\u0000${number.toString(36)}`

  function noteEntry(queue: Queue, { number, message, qos, at, messageId = 0, released }: Entry): void {
    if (!queue.kept) return
    const kept: KeptEntry = [message.id, qos, at, messageId, released ? 2 : messageId > 0 ? 1 : 0]
    notes.put('q', nameOf(queue, number), encodeJson(kept))
  }

  /**
   * The same for all who will wait for it; not on disk before `noteMessage`. Retained is what answers a SUBSCRIBE, and
   * nothing else. [MQTT-3.3.1-8], [MQTT-3.3.1-9]
   */
  function makeMessage(packet: AedesPublishPacket, retain = false): Message {
    const { cmd, brokerId, brokerCounter, topic, payload, qos } = packet
    const copy = { cmd, brokerId, brokerCounter, topic, payload: ownCopy(payload), qos, retain, dup: false }
    return { id: (++lastMessage).toString(36), packet: copy, bytes: sizeOf(packet), waiting: 0, noted: false }
  }

  function noteMessage(message: Message): void {
    if (message.noted) return
    message.noted = true
    notes.put('m', message.id, encodeMessage(message.packet))
  }

  function makeEntry(message: Message, qos: number, number = ++lastEntry): Entry {
    const highest = Math.min(message.packet.qos, qos) as 0 | 1 | 2
    return {
      number,
      message,
      qos: highest,
      at: Date.now(),
      messageId: undefined,
      released: false,
      sent: false,
      inside: false,
      previous: null,
      next: null,
    }
  }

  function insert(queue: Queue, entry: Entry): void {
    const { message, messageId } = entry
    message.waiting++
    entry.inside = true
    entry.previous = queue.last
    if (queue.last) queue.last.next = entry
    else queue.first = entry
    queue.last = entry
    queue.unsent ??= entry
    if (messageId !== undefined) queue.byMessageId.set(messageId, entry)
    if (++queue.length === 1) queues.add(queue)
    queue.bytes += message.bytes
    bytes += message.bytes
    queued++
  }

  /** Puts it in as far as there is room, and has it sent when its client is here. */
  function enter(queue: Queue, entry: Entry): void {
    if (queue.kept) noteMessage(entry.message)
    insert(queue, entry)
    trim(queue)
    queue.wake?.()
  }

  function remove(queue: Queue, entry: Entry): boolean {
    const { number, message, messageId, previous, next } = entry
    if (!entry.inside) return false
    entry.inside = false
    entry.previous = entry.next = null
    if (previous) previous.next = next
    else queue.first = next
    if (next) next.previous = previous
    else queue.last = previous
    if (queue.unsent === entry) queue.unsent = next
    if (entry.sent) queue.sent--
    if (messageId !== undefined && queue.byMessageId.get(messageId) === entry) queue.byMessageId.delete(messageId)
    if (--queue.length === 0) queues.delete(queue)
    queue.bytes -= message.bytes
    bytes -= message.bytes
    queued--
    if (queue.kept) notes.drop('q', nameOf(queue, number))
    if (--message.waiting === 0 && message.noted) {
      message.noted = false
      notes.drop('m', message.id)
    }
    return true
  }

  /** The oldest go first: of a queue that is too long or too large, and of the largest when all together are too large. */
  function trim(queue: Queue): void {
    const { maxQueued, maxQueuedSize, maxQueuedTotal } = limits
    while (queue.length > maxQueued || queue.bytes > maxQueuedSize) dropOldest(queue)
    while (bytes > maxQueuedTotal && queued > 0) dropOldest(findLargest())
  }

  function dropOldest(queue: Queue): void {
    remove(queue, queue.first as Entry)
    dropped++
  }

  /** A look at each queue is dear when there are many: one that was found gives half of what it holds before the next. */
  function findLargest(): Queue {
    if (!largest || largest.bytes <= enough) {
      for (const queue of queues) if (!largest || queue.bytes > largest.bytes) largest = queue
      enough = (largest as Queue).bytes / 2
    }
    return largest as Queue
  }

  return {
    openQueue: (client: string, kept: boolean): Queue => {
      const none = { first: null, last: null, unsent: null, length: 0, bytes: 0, sent: 0, lastId: 0, latest: 0 }
      return { client, kept, byMessageId: new Map(), wake: null, ...none }
    },
    makeMessage,
    noteMessage,
    remove,
    /** Notes that a message will wait in a queue, and answers with what puts it there. */
    prepare(queue: Queue, message: Message, qos: number) {
      const entry = makeEntry(message, qos)
      noteEntry(queue, entry)
      return {
        queue,
        enter: (): void => enter(queue, entry),
        /** It shall not be there after all. */
        cancel(): void {
          if (!remove(queue, entry)) notes.drop('q', nameOf(queue, entry.number))
        },
      }
    },
    enqueue(queue: Queue, message: Message, qos: number): void {
      const entry = makeEntry(message, qos)
      noteEntry(queue, entry)
      enter(queue, entry)
    },

    /** A connection of its client begins, on which all of it is to be sent; answers with the number of the last one. */
    connect(queue: Queue, wake: () => void): number {
      for (const entry of entriesOf(queue)) entry.sent = false
      queue.sent = 0
      queue.unsent = queue.first
      queue.wake = wake
      return lastEntry
    },
    /** The next one to be sent. */
    take(queue: Queue): Entry | null {
      const entry = queue.unsent
      if (!entry) return null
      queue.unsent = entry.next
      queue.sent++
      entry.sent = true
      return entry
    },
    /** The identifier of an entry that is sent; one that had one before may have been received. [MQTT-2.3.1-2] */
    identify(queue: Queue, entry: Entry): { messageId: number; dup: boolean } {
      const { messageId } = entry
      if (messageId !== undefined) return { messageId, dup: true }
      do queue.lastId = (queue.lastId % maxMessageId) + 1
      while (queue.byMessageId.has(queue.lastId))
      entry.messageId = queue.lastId
      queue.byMessageId.set(queue.lastId, entry)
      noteEntry(queue, entry)
      return { messageId: queue.lastId, dup: false }
    },
    /** Its client has received a message of QoS 2; that may be one which has had to go meanwhile. */
    release(queue: Queue, messageId: number): void {
      const entry = queue.byMessageId.get(messageId)
      if (!entry) return
      entry.released = true
      noteEntry(queue, entry)
    },
    acknowledged(queue: Queue, messageId: number | undefined): QueuedPacket | undefined {
      const entry = messageId === undefined ? undefined : queue.byMessageId.get(messageId)
      if (!entry) return undefined
      remove(queue, entry)
      queue.wake?.()
      return shown(entry)
    },
    empty(queue: Queue): void {
      for (const entry of entriesOf(queue)) remove(queue, entry)
    },
    /** Lets go of what waits since before a time. */
    expire(queue: Queue, before: Millis): void {
      for (const entry of entriesOf(queue)) {
        if (entry.at >= before) return
        remove(queue, entry)
        expired++
      }
    },

    // As Aedes' contract for a persistence has it. The hub gives identifiers itself.
    packets: (queue: Queue): QueuedPacket[] => Array.from(entriesOf(queue), shown),
    rename(queue: Queue, { brokerId, brokerCounter, messageId }: QueuedPacket): void {
      for (const entry of entriesOf(queue)) {
        const { packet } = entry.message
        if (packet.brokerId !== brokerId || packet.brokerCounter !== brokerCounter) continue
        entry.messageId = messageId
        queue.byMessageId.set(messageId as number, entry)
        noteEntry(queue, entry)
      }
    },

    restoreMessage(id: string, value: Uint8Array): void {
      const packet = decodeMessage(value)
      restoring.set(id, { id, packet, bytes: sizeOf(packet), waiting: 0, noted: true })
      lastMessage = Math.max(lastMessage, Number.parseInt(id, 36))
    },
    restoreEntry(queue: Queue, number: number, value: Uint8Array): void {
      const [id, qos, at, kept, state] = decodeJson<KeptEntry>(value)
      const message = restoring.get(id)
      if (!message) throw new Error('its message is not there')
      lastEntry = Math.max(lastEntry, number)
      const messageId = kept === 0 ? undefined : kept
      queue.lastId = messageId ?? queue.lastId
      insert(queue, Object.assign(makeEntry(message, qos, number), { at, messageId, released: state === 2 }))
    },
    /** After all entries: messages for which nobody waits. */
    sweepMessages(): void {
      for (const [id, { waiting }] of restoring) if (waiting === 0) notes.drop('m', id)
      restoring.clear()
    },
    get figures() {
      return { queued, queuedBytes: bytes, queueDropped: dropped, queueExpired: expired }
    },
  }
}

function* entriesOf(queue: Queue): Generator<Entry> {
  for (let entry = queue.first; entry; ) {
    const { next } = entry
    yield entry
    entry = next
  }
}

function sizeOf({ payload, topic }: AedesPublishPacket): number {
  return payload.length + topic.length + entryBytes
}

function shown({ message, qos, messageId, released }: Entry): QueuedPacket {
  if (released) return { cmd: 'pubrel', messageId } as unknown as QueuedPacket
  const { cmd, brokerId, brokerCounter, topic, payload, retain, dup } = message.packet
  return { cmd, brokerId, brokerCounter, topic, payload, qos, retain, dup, messageId } as QueuedPacket
}
