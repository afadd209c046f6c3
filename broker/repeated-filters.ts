import type { Client, Subscription } from 'aedes'

interface Subscribe {
  cmd: string
  messageId: number
  subscriptions: Subscription[]
}

/** What this needs of an Aedes client beyond its public face. */
interface Connection extends Omit<Client, 'subscribe'> {
  connackSent: boolean
  closed: boolean
  _parser: NodeJS.EventEmitter
  _parsingBatch: number
  _nextBatch(error?: Error | null): void
  _keepaliveTimer: NodeJS.Timeout | null
  subscribe(packet: { subscriptions: Subscription[] }, done: (error?: Error | null) => void): void
}

const subackType = 0x90
const failure = 0x80

/**
 * A SUBSCRIBE that holds a filter twice is answered with a return code for each of them; the last one counts.
 * [MQTT-3.8.4-4], [MQTT-3.8.4-5]. Aedes answers once for both.
 */
export function answerRepeatedFilters(client: Client): void {
  const connection = client as unknown as Connection
  const [handle] = connection._parser.listeners('packet') as ((packet: Subscribe) => void)[]
  if (!handle) throw new Error('BUG: nobody listens to the parser')
  connection._parser.removeListener('packet', handle)
  connection._parser.on('packet', (packet: Subscribe) => {
    if (packet.cmd !== 'subscribe' || !connection.connackSent) return handle.call(connection._parser, packet)
    const last = new Map(packet.subscriptions.map((subscription) => [subscription.topic, subscription]))
    if (last.size === packet.subscriptions.length) return handle.call(connection._parser, packet)
    const asked = packet.subscriptions.map(({ topic, qos }) => ({ topic, qos }))
    connection._parsingBatch++
    connection._keepaliveTimer?.refresh()
    connection.subscribe({ subscriptions: [...last.values()] }, (error) => {
      if (error) return connection._nextBatch(error)
      // Aedes writes what it has granted into the subscriptions, in the same turn.
      queueMicrotask(() => {
        const codes = asked.map(({ topic, qos }) => ((last.get(topic)?.qos as number) === failure ? failure : qos))
        if (!connection.closed) connection.conn.write(suback(packet.messageId, codes))
        connection._nextBatch()
      })
    })
  })
}

function suback(messageId: number, codes: number[]): Buffer {
  const length = codes.length + 2
  const lengthBytes: number[] = []
  // MQTT 3.1.1 §2.2.3
  for (let left = length; left > 0; left >>= 7) lengthBytes.push(left > 127 ? (left & 127) | 128 : left)
  return Buffer.from([subackType, ...lengthBytes, messageId >> 8, messageId & 255, ...codes])
}
