import { isUtf8 } from 'node:buffer'
import { crc32 } from 'node:zlib'
import type { Client, PublishPacket } from 'aedes'
import { codecs } from '../devices/codecs.ts'
import { type Decoded, deviceProblem } from '../devices/reading.ts'
import type { Delivery, Sink } from '../devices/sink.ts'
import type { TimeWindow } from '../devices/time.ts'
import type { Route, Router } from '../devices/topics.ts'
import { badText } from './matcher.ts'
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
  const waiting = new WeakMap<Client, number>()

  function routeOf(topic: string): Route | null {
    let found = known.get(topic)
    if (found === undefined) {
      if (known.size >= maxKnownRoutes) known.clear()
      found = route(topic)
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
    let begun = false
    if (client && packet.qos === 2 && packet.messageId !== undefined) {
      const digest = crc32(packet.payload, crc32(packet.topic))
      const handshake = { client: client.id, packetId: packet.messageId, digest }
      begun = sessions.beginIncoming(handshake)
      if (begun) delivery.handshake = handshake
      else return inOrder(client, delivery, done)
    }
    if (found) {
      const decoded = decode(found, client, packet, delivery)
      delivery.readings = decoded.readings
      delivery.rejected = decoded.rejected
      if (client) for (const { device } of decoded.readings) heard(client, device)
    } else if (!begun && (!client || !waiting.get(client))) {
      return done(null)
    }
    inOrder(client, delivery, done)
  }

  function inOrder(client: Client | null, delivery: Delivery, done: Acknowledge): void {
    if (client) waiting.set(client, (waiting.get(client) ?? 0) + 1)
    sink.accept(delivery, ({ failure }) => {
      if (client) waiting.set(client, (waiting.get(client) ?? 1) - 1)
      if (failure === null) return done(null)
      if (delivery.handshake) sessions.cancelIncoming(delivery.handshake.client, delivery.handshake.packetId)
      done(new Error(failure))
    })
  }

  function decode(found: Route, client: Client | null, packet: PublishPacket, delivery: Delivery): Decoded {
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
    return codecs[found.codec](text, { device, metric, now: delivery.received, window })
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
