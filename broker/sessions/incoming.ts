import type { AedesPublishPacket } from 'aedes'
import { ownCopy } from './retained.ts'

/** The exchanges of one client that a former run left behind. */
export type OpenExchanges = readonly [client: string, open: readonly (readonly [packetId: number, digest: number])[]]

type Stored = Pick<AedesPublishPacket, 'cmd' | 'topic' | 'payload' | 'qos' | 'dup' | 'retain'> & {
  messageId?: number | undefined
}

/** An inbound QoS 2 exchange. It is not `known` to Aedes until its first PUBLISH has passed, which is new to it. */
interface Exchange {
  digest: number
  known: boolean
  /** Left out where there is much of it: its readings are on disk, and only the identifier is of use. */
  packet: Stored | null
}

// What Aedes asks of an exchange is whether there is one.
const maxKeptBytes = 64

/** Which identifiers of QoS 2 messages are in use, from PUBLISH to PUBREL. MQTT 3.1.1 §4.3.3 */
export function createIncoming(open: readonly OpenExchanges[]) {
  const exchanges = new Map<string, Map<number, Exchange>>()
  let all = 0
  for (const [client, ids] of open) {
    exchanges.set(client, new Map(ids.map(([id, digest]) => [id, { digest, known: true, packet: null }])))
    all += ids.length
  }

  function of(client: string): Map<number, Exchange> {
    const known = exchanges.get(client)
    if (known) return known
    const ids = new Map<number, Exchange>()
    exchanges.set(client, ids)
    return ids
  }

  function put(client: string, packetId: number, exchange: Exchange): void {
    const ids = of(client)
    if (!ids.has(packetId)) all++
    ids.set(packetId, exchange)
  }

  function end(client: string, packetId: number): void {
    const ids = exchanges.get(client)
    if (!ids?.delete(packetId)) return
    all--
    if (ids.size === 0) exchanges.delete(client)
  }

  const get = (client: string, packetId: number): Exchange | undefined => exchanges.get(client)?.get(packetId)

  return {
    /** The commit of the exchange was refused. */
    end,
    has: (client: string, packetId: number): boolean => get(client, packetId) !== undefined,
    /**
     * Notes an exchange before its commit; false when the PUBLISH repeats one that is known. The digest decides and not
     * DUP, which clients forget to set: a device that lost its memory uses the same identifiers for new messages, and
     * those must not be lost.
     */
    begin(client: string, packetId: number, digest: number): boolean {
      if (get(client, packetId)?.digest === digest) return false
      put(client, packetId, { digest, known: false, packet: null })
      return true
    },
    /** The first PUBLISH has passed; `unknown`: an exchange that nobody began is one as well. */
    passed(client: string, packet: Stored, unknown: boolean): void {
      const packetId = packet.messageId as number
      if (unknown && !get(client, packetId)) put(client, packetId, { digest: 0, known: true, packet: null })
      const exchange = get(client, packetId)
      if (!exchange) return
      exchange.known = true
      if (packet.topic.length + packet.payload.length <= maxKeptBytes)
        exchange.packet = { ...packet, payload: ownCopy(packet.payload) }
    },
    /** What is known of an exchange that Aedes has heard of. */
    stored(client: string, messageId: number): Partial<Stored> | null {
      const exchange = get(client, messageId)
      if (!exchange?.known) return null
      if (!exchange.packet) return { messageId }
      const { cmd, topic, payload, qos, dup, retain } = exchange.packet
      return { cmd, topic, payload, qos, dup, retain, messageId }
    },
    /**
     * What to do with an exchange that is open now, once its commit is done: note that a PUBREL may come, or end it. By
     * then the identifier may be in use for another one, which is left alone.
     */
    storing(client: string, packetId: number): () => void {
      const exchange = get(client, packetId)
      return () => {
        if (exchange) exchange.known = true
      }
    },
    ending(client: string, packetId: number): () => void {
      const exchange = get(client, packetId)
      return () => {
        if (exchange && get(client, packetId) === exchange) end(client, packetId)
      }
    },
    /** False: there were none. */
    clear(client: string): boolean {
      all -= exchanges.get(client)?.size ?? 0
      return exchanges.delete(client)
    },
    count: (client: string): number => exchanges.get(client)?.size ?? 0,
    get open() {
      return all
    },
  }
}
