import type { Millis } from '../devices/reading.ts'

/** What a client may ask of the broker. Sizes are bytes, rates are per second, and a rate of 0 is none. */
export interface Limits {
  /** The length that a packet declares is enough to refuse it. */
  maxPacketSize: number
  /** What is no PUBLISH: CONNECT of somebody whom nobody knows yet, SUBSCRIBE with all the work that it asks for. */
  maxControlSize: number
  /** From the turn of a connection to its CONNACK: its CONNECT, and all that the hub does to let it in. */
  connectTimeout: Millis
  maxConnections: number
  maxConnectionsPerAddress: number
  /** Connections that begin; those beyond wait for their turn. */
  connectRate: number
  /** PUBLISH packets of one connection; TCP slows down who sends more. */
  maxMessageRate: number
  /** Bytes of one connection; TCP slows down who sends more. */
  maxByteRate: number
  /** Packets of one connection that ask for work and carry no message; TCP slows down who sends more. */
  maxControlRate: number
  /** The payload of a will, which the hub keeps for as long as its client is connected. */
  maxWillSize: number
  maxTopicLevels: number
  /** In UTF-8. */
  maxTopicLength: number
  maxSubscriptions: number
  maxSubscriptionsPerClient: number
  /** Inbound QoS 2 messages of one client that may wait for their PUBREL. */
  maxOpenExchanges: number
  /** Those of all clients, also of such as are away. */
  maxOpenExchangesTotal: number
  /** Messages that wait for one client, or for its acknowledgement; the oldest go first. */
  maxQueued: number
  maxQueuedSize: number
  /** All that wait for anybody; the oldest go first, where most waits. */
  maxQueuedTotal: number
  maxQueuedAge: Millis
  /** Clients that are remembered, and for how long after they have gone. */
  maxSessions: number
  sessionExpiry: Millis
  maxRetained: number
  maxRetainedSize: number
}

/** A connection ends because it went beyond a limit. */
export class LimitReached extends Error {
  readonly limit: keyof Limits

  constructor(limit: keyof Limits, message: string) {
    super(message)
    this.limit = limit
  }
}

/** How often each limit was met since the start. */
export type Reached = Partial<Record<keyof Limits, number>>

export function countReached(reached: Reached, limit: keyof Limits): void {
  reached[limit] = (reached[limit] ?? 0) + 1
}

/** Which limit a topic or a topic filter goes beyond. */
export function topicLimit(topic: string, { maxTopicLength, maxTopicLevels }: Limits): keyof Limits | null {
  if (Buffer.byteLength(topic) > maxTopicLength) return 'maxTopicLength'
  return topic.split('/').length > maxTopicLevels ? 'maxTopicLevels' : null
}
