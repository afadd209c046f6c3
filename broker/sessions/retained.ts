import { Readable } from 'node:stream'
import type { AedesPublishPacket } from 'aedes'
import type { Limits } from '../limits.ts'
import { compileFilter } from '../matcher.ts'
import { decodeMessage, encodeMessage, type Notes } from './notes.ts'

/** The retained message of each topic. */
export function createRetained({ maxRetained, maxRetainedSize }: Limits, notes: Notes) {
  const messages = new Map<string, AedesPublishPacket>()
  let bytes = 0
  let dropped = 0

  function forget(topic: string): void {
    bytes -= messages.get(topic)?.payload.length ?? 0
    messages.delete(topic)
  }

  /** An empty one deletes, and one that takes the place of another needs no new one. */
  function hasRoom({ topic, payload }: AedesPublishPacket): boolean {
    const before = messages.get(topic)?.payload.length
    const count = messages.size + (before === undefined ? 1 : 0)
    return payload.length === 0 || (count <= maxRetained && bytes - (before ?? 0) + payload.length <= maxRetainedSize)
  }

  /** Notes that a message is retained, or the one before no longer; answers with what makes it so in memory. */
  function prepare(packet: AedesPublishPacket): () => void {
    const { topic, payload } = packet
    const room = hasRoom(packet)
    const stays = payload.length > 0 && room
    if (stays) notes.put('r', topic, encodeMessage(packet))
    else notes.drop('r', topic)
    if (!room) dropped++
    return () => {
      forget(topic)
      if (!stays) return
      messages.set(topic, { ...packet, payload: ownCopy(payload) })
      bytes += payload.length
    }
  }

  function* matching(filters: readonly string[]) {
    for (const filter of filters) {
      const exact = messages.get(filter)
      if (exact) yield exact
      if (!filter.includes('+') && !filter.includes('#')) continue
      const matches = compileFilter(filter)
      for (const [topic, packet] of messages) if (matches(topic)) yield packet
    }
  }

  return {
    prepare,
    restore(topic: string, value: Uint8Array): void {
      const packet = decodeMessage(value)
      messages.set(topic, packet)
      bytes += packet.payload.length
    },
    stream: (filters: readonly string[]): Readable => Readable.from(matching(filters)),
    matching,
    clear: (): void => messages.clear(),
    get figures() {
      return { retained: messages.size, retainedBytes: bytes, retainedDropped: dropped }
    },
  }
}

// A payload is a piece of what one read of the socket brought; kept as it is, it would keep all of that in memory.
export function ownCopy(payload: string | Buffer): string | Buffer {
  return typeof payload === 'string' ? payload : Buffer.from(payload)
}
