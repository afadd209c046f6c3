import type { Millis, Reading, Rejection } from './reading.ts'

/** What came from outside at once, decoded: what shall be stored, and what the quarantine shall keep. */
export interface Delivery {
  /** Where it came from, in words that a person reads in the quarantine: an MQTT topic or an HTTP path. */
  origin: string
  /** The device as far as the origin names one, else empty; for the quarantine alone. */
  device: string
  received: Millis
  readings: Reading[]
  rejected: Rejection[]
  /** Steps of QoS 2 that must be known again after a crash, in the same commit. */
  handshakes: Handshake[]
  /** What else must be known again after a restart when the delivery is. */
  notes: Note[]
}

/** One inbound QoS 2 exchange: the identifier is in use from PUBLISH until PUBREL. MQTT 3.1.1 §4.3.3 */
export interface Handshake {
  client: string
  packetId: number
  /** Of topic and payload: tells a message that comes again from a new one under the same identifier. `null`: the exchange ends. */
  digest: number | null
}

/** A value that is kept under a key, in place of the one before; `null`: there is none any more. */
export type Note = readonly [key: string, value: Uint8Array | null]

/** A delivery that holds nothing yet. */
export function emptyDelivery(origin: string, device = ''): Delivery {
  return { origin, device, received: Date.now(), readings: [], rejected: [], handshakes: [], notes: [] }
}

/** How a delivery ended: everything is on disk, or (`failure`) nothing of it may be acknowledged. */
export type Outcome =
  | { failure: null; accepted: number; duplicates: number; offset: number }
  | { failure: string; accepted: 0; duplicates: 0; offset: 0 }

/**
 * Where telemetry goes in. `done` is called once, after the commit that holds the delivery is synced to
 * disk and visible to every query, and in the order of the calls to `accept`. It is called with a failure
 * only when the sink is closing: while storage fails, it waits.
 */
export interface Sink {
  accept(delivery: Delivery, done: (outcome: Outcome) => void): void
  /** Keeps notes; `done` is called as that of `accept` is, when they and all before them are on disk. */
  note(notes: readonly Note[], done: (failure: string | null) => void): void
  /** Forgets all exchanges of a client that began a clean session. [MQTT-3.1.2-6] */
  discard(client: string): void
}
