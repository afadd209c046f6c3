import { isUtf8 } from 'node:buffer'
import { crc32 } from 'node:zlib'
import type { Client, PublishPacket } from 'aedes'
import { decode } from '../devices/codecs.ts'
import { type Decoded, deviceProblem, type Millis } from '../devices/reading.ts'
import { type Delivery, emptyDelivery, type Sink } from '../devices/sink.ts'
import type { TimeWindow } from '../devices/time.ts'
import type { Route, Router } from '../devices/topics.ts'
import { type Visitor, visitorOf } from './doorman.ts'
import { LimitReached, type Limits, topicLimit } from './limits.ts'
import { createTopicCache, topicProblem } from './matcher.ts'
import type { QueuedPacket } from './sessions/outgoing.ts'
import type { Sessions } from './sessions/sessions.ts'

export interface IngestOptions {
  sink: Sink
  route: Router
  window: TimeWindow
  sessions: Sessions
  limits: Limits
  /** Telemetry of the device came over the connection. */
  heard(client: Client, device: string): void
}

export interface Ingest {
  routeOf(topic: string): Route | null
  /** Whether somebody may publish to a topic; what telemetry may be about is looked at reading by reading. */
  mayPublish(visitor: Visitor, topic: string): boolean
  /** The readings in the payload that lies in `bytes` from `start` to `end`. */
  read(client: Client, route: Route, bytes: Buffer, start: number, end: number, now: Millis): Decoded
  /** The device that a message is from, as far as its topic or its connection tells. */
  deviceOf(client: Client, route: Route): string
  /**
   * Opens the exchange of a QoS 2 PUBLISH in a delivery. False when the message repeats one that is stored already, or
   * on its way: then only the answer is due.
   */
  begin(client: Client, packetId: number, topic: string, payload: Uint8Array | string, delivery: Delivery): boolean
  /** Commits; `done` is called in the order of the connection's messages, with a failure only when nothing was stored. */
  accept(client: Client, delivery: Delivery, done: (failure: string | null) => void): void
  /**
   * The hook before every acknowledgement of Aedes. It calls back when what the message holds is on disk; a message
   * that is no telemetry passes at once unless others wait before it.
   */
  authorizePublish(client: Client, packet: PublishPacket, done: (error?: Error | null) => void): void
}

export function createIngest({ sink, route, window, sessions, limits, heard }: IngestOptions): Ingest {
  const { maxOpenExchanges, maxOpenExchangesTotal } = limits
  const { incoming } = sessions
  const routes = createTopicCache(route)
  // How many deliveries of a connection wait for their commit.
  const waiting = new WeakMap<Client, { deliveries: number }>()

  function deviceOf(client: Client, route: Route): string {
    if (route.kind === 'own') return visitorOf(client).device
    return route.kind === 'unknown' ? '' : route.device
  }

  function read(client: Client, route: Route, bytes: Buffer, start: number, end: number, now: Millis): Decoded {
    const reject = (reason: string): Decoded => {
      return { readings: [], rejected: [{ item: 1, payload: bytes.subarray(start, end), reason }] }
    }
    if (route.kind === 'unknown') return reject(route.reason)
    const device = deviceOf(client, route)
    if (route.kind === 'own') {
      const problem = deviceProblem(device)
      if (problem) return reject(`${problem}: the device is the user name of the connection, or else its client id`)
    }
    const text = bytes.toString('utf8', start, end)
    if (text.includes('\ufffd') && !isUtf8(bytes.subarray(start, end))) return reject('the payload is not valid UTF-8')
    const metric = route.kind === 'own' ? null : route.metric
    const decoded = decode(route.codec, text, { device, metric, now, window })
    const visitor = visitorOf(client)
    // A gateway names its devices in the payload.
    if (device === '' && !decoded.readings.every((reading) => visitor.maySpeakFor(reading.device))) {
      return reject(`${visitor.identity} may not speak for all of these devices`)
    }
    for (const reading of decoded.readings) heard(client, reading.device)
    return decoded
  }

  function mayPublish(visitor: Visitor, topic: string): boolean {
    const route = routes.get(topic)
    if (route?.kind === 'telemetry' && route.device !== '') return visitor.maySpeakFor(route.device)
    return visitor.mayPublish(topic)
  }

  function begin(client: Client, packetId: number, topic: string, payload: Uint8Array | string, delivery: Delivery) {
    const digest = crc32(payload, crc32(topic))
    if (!incoming.begin(client.id, packetId, digest)) return false
    const isOwn = incoming.count(client.id) > maxOpenExchanges
    if (isOwn || incoming.open > maxOpenExchangesTotal) {
      incoming.end(client.id, packetId)
      const limit = isOwn ? 'maxOpenExchanges' : 'maxOpenExchangesTotal'
      throw new LimitReached(limit, `more than ${limits[limit]} QoS 2 messages wait for their PUBREL: ${limit}`)
    }
    delivery.handshakes.push({ client: client.id, packetId, digest })
    return true
  }

  function accept(client: Client, delivery: Delivery, done: (failure: string | null) => void): void {
    const before = queueOf(client)
    before.deliveries++
    // Not the delivery: its readings would live until the commit, when the sink has long made bytes of them.
    const { handshakes } = delivery
    sink.accept(delivery, ({ failure }) => {
      before.deliveries--
      if (failure !== null) {
        for (const { client, packetId, digest } of handshakes) {
          if (digest !== null) incoming.end(client, packetId)
        }
      }
      done(failure)
    })
  }

  function queueOf(client: Client): { deliveries: number } {
    let queue = waiting.get(client)
    if (!queue) {
      queue = { deliveries: 0 }
      waiting.set(client, queue)
    }
    return queue
  }

  return {
    routeOf: routes.get,
    mayPublish,
    read,
    deviceOf,
    begin,
    accept,
    authorizePublish(client, packet, done) {
      const { topic, qos, messageId } = packet
      // [MQTT-2.3.1-1]
      const problem = qos > 0 && messageId === 0 ? 'the packet identifier must not be 0' : topicProblem(topic)
      if (problem) return done(new Error(problem))
      const limit = topicLimit(topic, limits)
      if (limit) return done(new LimitReached(limit, `a topic is beyond ${limit}, which is ${limits[limit]}`))
      const visitor = visitorOf(client)
      // Nobody speaks for a credential that is no longer good, a will neither.
      if (visitor.revocation.revoked || !mayPublish(visitor, topic)) {
        return done(new Error(`not allowed to publish to ${topic}`))
      }
      const found = routes.get(topic)
      const delivery = emptyDelivery(topic, found ? deviceOf(client, found) : '')
      const isNew = qos !== 2 || !messageId || begin(client, messageId, topic, packet.payload, delivery)
      if (found && isNew) {
        const bytes = typeof packet.payload === 'string' ? Buffer.from(packet.payload) : packet.payload
        Object.assign(delivery, read(client, found, bytes, 0, bytes.length, delivery.received))
      }
      // Aedes acknowledges what it passes on, and nothing else.
      if (found?.kind === 'unknown' && found.ofHub) Object.assign(packet, forNobody)
      const prepared = isNew ? sessions.prepare(packet as QueuedPacket) : null
      if (prepared) delivery.notes = prepared.notes
      // A repeat is answered after the commit of what it repeats, which another connection may have begun.
      const nothing = isNew && !found && !prepared && delivery.handshakes.length === 0
      if (nothing && !waiting.get(client)?.deliveries) return done(null)
      const repeated = isNew ? null : incoming.storing(client.id, messageId as number)
      accept(client, delivery, (failure) => {
        if (failure !== null) return done(new Error(failure))
        prepared?.kept()
        repeated?.()
        done(null)
      })
    },
  }
}

/** In place of what only the hub says: no filter of before leads here, and nothing stays. */
const forNobody = { topic: '$hub/refused', retain: false }
