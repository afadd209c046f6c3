import { Readable } from 'node:stream'
import type { AedesPublishPacket } from 'aedes'
import { QlobberTrue } from 'qlobber'
import type { Millis } from '../../devices/reading.ts'
import type { Limits } from '../limits.ts'
import { topicRules } from '../matcher.ts'
import { decodeHead, decodeMessage, encodeMessage, type Notes } from './notes.ts'

/** How long the topics are looked through before others have their turn. */
const turnMillis: Millis = 2

/** The retained message of each topic. */
export function createRetained({ maxRetained, maxRetainedSize }: Limits, notes: Notes) {
  const messages = new Map<string, AedesPublishPacket>()
  // What clients retain, and what the hub does for them, have the same room each: neither takes that of the other.
  const ofClients = createRoom(maxRetained, maxRetainedSize)
  const ofHub = createRoom(maxRetained, maxRetainedSize)
  let dropped = 0
  let lastTurn = Promise.resolve()

  /** Notes that a message is retained, or the one before no longer; answers with what makes it so in memory. */
  function prepare(packet: AedesPublishPacket, byHub = false): () => void {
    const { topic, payload } = packet
    ;(byHub ? ofClients : ofHub).leave(topic)
    // An empty one deletes.
    const stays = (byHub ? ofHub : ofClients).take(topic, payload.length)
    if (payload.length > 0 && !stays) dropped++
    if (stays) notes.put('r', topic, encodeMessage(packet, byHub ? { byHub } : {}))
    else notes.drop('r', topic)
    return () => {
      if (stays) messages.set(topic, { ...packet, payload: ownCopy(payload) })
      else messages.delete(topic)
    }
  }

  function* matching(filters: readonly string[]) {
    const matches = matcherOf(filters)
    for (const [topic, packet] of messages) if (matches(topic)) yield packet
  }

  /** A turn of the loop in which nobody else looks through the topics. */
  function nextTurn(): Promise<void> {
    lastTurn = lastTurn.then(() => new Promise((resolve) => setImmediate(resolve)))
    return lastTurn
  }

  /** One message for each topic, however many of the filters match it. */
  async function* streamed(filters: readonly string[]) {
    if (!filters.some(isWild)) {
      for (const filter of new Set(filters)) {
        const packet = messages.get(filter)
        if (packet) yield packet
      }
      return
    }
    const matches = matcherOf(filters)
    await nextTurn()
    let begun = performance.now()
    // Those that come meanwhile are live.
    let left = messages.size
    for (const [topic, packet] of messages) {
      if (left-- === 0) return
      if (matches(topic)) yield packet
      if (performance.now() - begun < turnMillis) continue
      await nextTurn()
      begun = performance.now()
    }
  }

  return {
    prepare,
    restore(topic: string, value: Uint8Array): void {
      const packet = decodeMessage(value)
      const { byHub } = decodeHead(value) as { byHub?: boolean }
      messages.set(topic, packet)
      ;(byHub ? ofHub : ofClients).put(topic, packet.payload.length)
    },
    stream: (filters: readonly string[]): Readable => Readable.from(streamed(filters)),
    matching,
    clear(): void {
      for (const topic of messages.keys()) {
        ofHub.leave(topic)
        ofClients.leave(topic)
      }
      messages.clear()
    },
    get figures() {
      return { retained: messages.size, retainedBytes: ofHub.bytes + ofClients.bytes, retainedDropped: dropped }
    },
  }
}

/**
 * By topic, how many bytes will be retained when all that is noted is on disk: messages wait for their commit together,
 * and each finds the place taken that those before it will have.
 */
function createRoom(maxCount: number, maxBytes: number) {
  const sizes = new Map<string, number>()
  let bytes = 0

  function put(topic: string, size: number): void {
    bytes += size - (sizes.get(topic) ?? 0)
    sizes.set(topic, size)
  }

  function leave(topic: string): void {
    bytes -= sizes.get(topic) ?? 0
    sizes.delete(topic)
  }

  return {
    put,
    leave,
    /** A message that takes the place of another needs no new one. One that does not fit leaves none. */
    take(topic: string, size: number): boolean {
      const before = sizes.get(topic)
      const count = sizes.size + (before === undefined ? 1 : 0)
      const fits = size > 0 && count <= maxCount && bytes - (before ?? 0) + size <= maxBytes
      if (fits) put(topic, size)
      else leave(topic)
      return fits
    },
    get bytes() {
      return bytes
    },
  }
}

const isWild = (filter: string): boolean => filter.includes('+') || filter.includes('#')

/** Whether any of many filters matches a topic, without asking each of them. */
function matcherOf(filters: readonly string[]): (topic: string) => boolean {
  const anywhere = new QlobberTrue(topicRules)
  // [MQTT-4.7.2-1]
  const notReserved = new QlobberTrue(topicRules)
  for (const filter of filters) (isWild(filter.slice(0, 1)) ? notReserved : anywhere).add(filter)
  return (topic) => anywhere.test(topic) || (!topic.startsWith('$') && notReserved.test(topic))
}

// A payload is a piece of what one read of the socket brought; kept as it is, it would keep all of that in memory.
export function ownCopy(payload: string | Buffer): string | Buffer {
  return typeof payload === 'string' ? payload : Buffer.from(payload)
}
