import type { Millis } from '../devices/reading.ts'

/** What a client may ask of the broker. Sizes are bytes. */
export interface Limits {
  /** The length that a packet declares is enough to refuse it. */
  maxPacketSize: number
  /** From opening a connection to its CONNECT. */
  connectTimeout: Millis
  /** Inbound QoS 2 messages of one client that may wait for their PUBREL. */
  maxOpenExchanges: number
  /** Messages that wait for one client that is away; the oldest go first. */
  maxQueued: number
  maxQueuedSize: number
  maxRetained: number
  maxRetainedSize: number
}
