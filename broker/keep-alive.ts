import type { Client } from 'aedes'
import type { Millis } from '../devices/reading.ts'

/** What Aedes knows of a client besides its public face. */
interface Timed {
  /** Packets in work; nothing more is read until there are none. */
  _parsingBatch: number
  _keepaliveTimer: NodeJS.Timeout | null
}

/** Half of the shortest time after which a client counts as silent is longer. [MQTT-3.1.2-24] */
const lookMillis: Millis = 500

/**
 * A client whose packets are in work cannot be heard: its pings wait in the socket, behind a slow disk or for its turn.
 * Meanwhile it does not count as silent. Returns what ends it.
 */
export function keepAlive(clients: Iterable<Client>): () => void {
  const looking = setInterval(() => {
    for (const client of clients) {
      const { _parsingBatch, _keepaliveTimer } = client as unknown as Timed
      if (_parsingBatch > 0) _keepaliveTimer?.refresh()
    }
  }, lookMillis)
  return () => clearInterval(looking)
}
