import { isUtf8 } from 'node:buffer'
import { crc32 } from 'node:zlib'
import type { Client, PublishPacket } from 'aedes'
import { decode } from '../devices/codecs.ts'
import { type Decoded, deviceProblem } from '../devices/reading.ts'
import type { Delivery, Sink } from '../devices/sink.ts'
import type { TimeWindow } from '../devices/time.ts'
import type { Route, Router } from '../devices/topics.ts'
import { badText, maxKnownTopicLength } from './matcher.ts'
import type { Sessions } from './sessions.ts'

export interface IngestOptions {
  sink: Sink
  route: Router
  window: TimeWindow
  sessions: Sessions
  /** Telemetry of the device came over the connection. */
  heard(client: Client, device: string): void
}

/** Routes that are remembered: devices send on the same topics again and again. */
const maxKnownRoutes = 50_000

export type Acknowledge = (error?: Error | null) => void

/**
 * The hook before every acknowledgement. It calls back when what the message holds is on disk, in the order in which
 * the messages of a connection arrived; a message that is no telemetry passes at once unless others wait before it.
 */
export function createIngest({ sink, route, window, sessions, heard }: IngestOptions) {
  const known = new Map<string, Route | null>()
  // How many messages of a connection wait for their commit.
  const waiting = new WeakMap<Client, { messages: number }>()

  function routeOf(topic: string): Route | null {
    let found = known.get(topic)
    if (found === undefined) {
      found = route(topic)
      if (topic.length > maxKnownTopicLength) return found
      if (known.size >= maxKnownRoutes) known.clear()
      known.set(topic, found)
    }
    return found
  }

  return function authorizePublish(client: Client | null, packet: PublishPacket, done: Acknowledge): void {
    const problem = packetProblem(packet)
    if (problem) return done(new Error(problem))
    const found = routeOf(packet.topic)
    const delivery: Delivery = {
      origin: packet.topic,
      device: '',
      received: Date.now(),
      readings: [],
      rejected: [],
    }
    if (found) {
      const decoded = read(found, client, packet, delivery)
      delivery.readings = decoded.readings
      delivery.rejected = decoded.rejected
      if (client) for (const { device } of decoded.readings) heard(client, device)
    }
    if (client && packet.qos === 2 && packet.messageId !== undefined) {
      const digest = crc32(packet.payload, crc32(packet.topic))
      const handshake = { client: client.id, packetId: packet.messageId, digest }
      if (sessions.beginIncoming(handshake)) {
        delivery.handshake = handshake
      } else {
        // It is stored already, or on its way: only the answer is due, in its turn.
        delivery.readings = []
        delivery.rejected = []
      }
    } else if (!found && (!client || !waiting.get(client)?.messages)) {
      return done(null)
    }
    inOrder(client, delivery, done)
  }

  function inOrder(client: Client | null, delivery: Delivery, done: Acknowledge): void {
    const before = client ? queueOf(client) : null
    if (before) before.messages++
    sink.accept(delivery, ({ failure }) => {
      if (before) before.messages--
      if (failure === null) return done(null)
      if (delivery.handshake) sessions.cancelIncoming(delivery.handshake.client, delivery.handshake.packetId)
      done(new Error(failure))
    })
  }

  function queueOf(client: Client): { messages: number } {
    let queue = waiting.get(client)
    if (!queue) {
      queue = { messages: 0 }
      waiting.set(client, queue)
    }
    return queue
  }

  function read(found: Route, client: Client | null, packet: PublishPacket, delivery: Delivery): Decoded {
    const bytes = typeof packet.payload === 'string' ? Buffer.from(packet.payload) : packet.payload
    const reject = (reason: string): Decoded => ({ readings: [], rejected: [{ item: 1, payload: bytes, reason }] })
    if (found.kind === 'unknown') return reject(found.reason)
    const device = found.kind === 'own' ? ownDevice(client) : found.device
    delivery.device = device
    if (found.kind === 'own') {
      const problem = deviceProblem(device)
      if (problem) return reject(`${problem}: the device is the user name of the connection, or else its client id`)
    }
    const text = bytes.toString('utf8')
    if (text.includes('\ufffd') && !isUtf8(bytes)) return reject('the payload is not valid UTF-8')
    const metric = found.kind === 'own' ? null : found.metric
    return decode(found.codec, text, { device, metric, now: delivery.received, window })
  }
}

/** Who a connection logged in as. */
function ownDevice(client: Client | null): string {
  const { username, id } = (client ?? {}) as { username?: string; id?: string }
  return username || id || ''
}

// What Aedes lets pass and MQTT does not. The reserved topics are the broker's own.
function packetProblem({ topic, qos, messageId }: PublishPacket): string | null {
  if (badText(topic)) return 'the topic must be UTF-8 without the character U+0000'
  if (topic.startsWith('$')) return 'topics that begin with $ belong to the broker'
  // [MQTT-2.3.1-1]
  if (qos > 0 && messageId === 0) return 'the packet identifier must not be 0'
  return null
}
