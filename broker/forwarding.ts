import type { AedesPublishPacket, Client } from 'aedes'
import { visitorOf } from './doorman.ts'
import { maxUnsentBytes } from './guard.ts'
import { matchesFilter } from './matcher.ts'

/** What a subscriber is sent, asked for each message just before it is written. */
export function createForwarding() {
  let dropped = 0

  return {
    forward(client: Client, packet: AedesPublishPacket): AedesPublishPacket | null {
      if (client.conn.writableLength > maxUnsentBytes) {
        dropped++
        if (packet.qos === 0) return null
        // At QoS 1 and 2 nothing may be skipped: the connection ends, and a persistent session gets it all later.
        client.conn.destroy()
        return packet
      }
      if (packet.qos === 0) return packet
      // What waited for a client may be what it was allowed then. A topic without wildcards is a filter.
      if (!visitorOf(client).maySubscribe(packet.topic)) return null
      const granted = grantedQos(client, packet.topic)
      return granted < packet.qos
        ? Object.assign(Object.create(Object.getPrototypeOf(packet)), packet, { qos: granted })
        : packet
    },
    /** Messages that a stalled subscriber did not get. */
    get dropped() {
      return dropped
    },
  }
}

/** The highest QoS that a client's filters allow for a topic; Aedes looks only at filters that equal it. */
function grantedQos(client: Client, topic: string): 0 | 1 | 2 {
  const { subscriptions } = client as unknown as { subscriptions: Record<string, { qos: 0 | 1 | 2 }> }
  let granted: 0 | 1 | 2 = 0
  for (const filter in subscriptions) {
    const { qos } = subscriptions[filter] as { qos: 0 | 1 | 2 }
    if (qos > granted && matchesFilter(topic, filter)) granted = qos
  }
  return granted
}
