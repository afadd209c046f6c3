import type { Client } from 'aedes'
import { type Delivery, emptyDelivery } from '../devices/sink.ts'
import type { Route } from '../devices/topics.ts'
import { visitorOf } from './doorman.ts'
import { createRemainder, packetBytes } from './framing.ts'
import type { Ingest } from './ingest.ts'
import { LimitReached, type Limits, topicLimit } from './limits.ts'
import { topicProblem } from './matcher.ts'
import { packetProblem } from './packet-rules.ts'
import type { Sessions } from './sessions/sessions.ts'
import type { Throttle, Traffic } from './throttle.ts'

/*
 * The way of nearly every packet: telemetry to which nobody subscribes. It is read straight out of what the socket
 * brought, a chunk is one delivery, and its acknowledgements leave in one write. Everything else in the chunk, from
 * the first packet on that needs the broker, goes to Aedes, in its order.
 *
 * Measured against Aedes alone: half the processor time for each message, twice the messages a second.
 */

export interface FastPathOptions {
  ingest: Ingest
  sessions: Sessions
  limits: Limits
  /** How fast a new connection may send. */
  throttle(client: Client): Throttle
  /** Whether a message on the topic has no subscriber, neither present nor away. */
  nobodyHears(topic: string, qos: number): boolean
  onPublished(messages: number): void
  /** Acknowledgements of a commit were written; they shall not wait for what else the turn brings. */
  onAnswered(): void
}

// Types and flags of the first byte: MQTT 3.1.1 §2.2
const publishType = 0x30
const retainFlag = 0x01
const pubrel = 0x62
const puback = 0x40
const pubrec = 0x50
const pubcomp = 0x70
const connectType = 0x10
const pubrelType = 0x60

/** A SUBSCRIBE of many filters is the work of several. */
const controlBytes = 512

/** Work of one connection after which others have their turn: 0.3 ms for a SUBSCRIBE, and a read holds thousands. */
const turnWork = 64

/** What the fast path needs of an Aedes client beyond its public face. */
interface Connection extends Client {
  closed: boolean
  connackSent: boolean
  _parser: { parse(bytes: Buffer): unknown }
  /** Packets in work; the next chunk is read when there are none. */
  _parsingBatch: number
  _nextBatch(error?: Error | null): void
  _keepaliveInterval: number
  _keepaliveTimer: NodeJS.Timeout | null
  waitForDrain(done: (error?: Error | null) => void): void
  subscriptions: Record<string, unknown>
}

/** A delivery being put together, and what is to be answered when it is stored: type and packet identifier. */
interface Run {
  delivery: Delivery
  answers: number[]
  messages: number
}

/** Puts the fast path in front of the parser of each connection that it is given. */
export function createFastPath(options: FastPathOptions) {
  const { incoming } = options.sessions
  const { ingest, limits, nobodyHears, onPublished, onAnswered } = options
  const smallerLimit = Math.min(limits.maxPacketSize, limits.maxControlSize)
  return function attach(client: Client): void {
    const connection = client as Connection
    const parseSlowly = connection._parser.parse.bind(connection._parser)
    const remainder = createRemainder()
    const throttle = options.throttle(client)
    const traffic: Traffic = { bytes: 0, messages: 0, control: 0, waiting: 0 }
    // Packets of the last read that wait, because they ask for more work than the hub does at once.
    let postponed: Buffer | null = null
    let introduced = false
    let run: Run | null = null
    // Devices publish on one topic, again and again.
    let lastTopic = Buffer.alloc(0)
    let topic = ''
    let route: Route | null = null
    // PUBRECs keep the order of their PUBLISHes, [MQTT-4.6.0-3], so once Aedes has one, it gets all that follow.
    let aedesHasQos2 = false

    // Since Node 26 a read brings one piece of what has arrived, and Aedes reads on only after a packet that is whole.
    // It asks for `null` bytes; the stream itself, which wants to hear of more, for none.
    const read: (size?: number) => Buffer | null = connection.conn.read.bind(connection.conn)
    connection.conn.read = (size?: number | null) => (size === null ? readAll(read) : read(size))

    // Aedes reads on with each `readable`, finished or not, which is bounded only while each packet counts; a chunk that
    // counts as one must be answered first. What is answered reads on by itself.
    let begun = false
    connection.conn.removeListener('readable', connection._nextBatch)
    connection.conn.on('readable', () => {
      if (begun && connection._parsingBatch > 0) return
      begun = true
      connection._nextBatch()
    })

    connection._parser.parse = (chunk: Buffer): void => {
      attempt(() => {
        const bytes = remainder.join(chunk)
        if (bytes) parse(bytes, true)
        pace(chunk.length)
      })
    }

    function attempt(task: () => void): void {
      try {
        task()
      } catch (error) {
        finish()
        connection._nextBatch(error as Error)
      }
    }

    function pace(bytes: number): void {
      traffic.bytes = bytes
      traffic.waiting = postponed ? workIn(postponed) : 0
      const wait = throttle.pace(traffic)
      traffic.messages = traffic.control = 0
      if ((wait === 0 && !postponed) || connection.closed) return
      // It counts as a packet in work: until that is done, nothing is read.
      connection._parsingBatch++
      setTimeout(() => {
        if (!connection.closed) attempt(resume)
      }, wait)
    }

    function resume(): void {
      if (postponed) {
        const bytes = postponed
        postponed = null
        // Aedes may still be at work with what came before.
        parse(bytes, false)
        pace(0)
      }
      connection._nextBatch()
    }

    function workOf(type: number, size: number): number {
      return isControl(type) ? 1 + Math.floor(size / controlBytes) : 0
    }

    /** How much work all packets ask for that are whole. */
    function workIn(bytes: Buffer): number {
      let work = 0
      for (let at = 0; at < bytes.length; ) {
        const size = packetBytes(bytes, at)
        if (size <= 0 || at + size > bytes.length) break
        work += workOf((bytes[at] as number) & 0xf0, size)
        at += size
      }
      return work
    }

    /** Whether a packet asks for work without being a message or a step in the exchange of one. */
    function isControl(type: number): boolean {
      if (type < puback || type === pubrelType) return false
      if (type > pubcomp) return true
      // Acknowledgements of one who was sent nothing.
      for (const _filter in connection.subscriptions) return false
      return true
    }

    function refuseSize(bytes: Buffer, at: number, size: number): void {
      if (!introduced && (bytes[at] as number) !== connectType) throw new Error('the first packet is not CONNECT')
      const isPublish = ((bytes[at] as number) & 0xf0) === publishType
      const limit = isPublish ? 'maxPacketSize' : 'maxControlSize'
      if (size > limits[limit]) {
        throw new LimitReached(limit, `a packet of ${size} bytes: at most ${limits[limit]} are accepted`)
      }
    }

    function parse(bytes: Buffer, mayBeFast: boolean): void {
      let at = 0
      let fast = mayBeFast && connection.connackSent && !connection.closed
      let slowFrom = -1
      let worked = 0
      while (at < bytes.length) {
        const size = packetBytes(bytes, at)
        if (!introduced || size > smallerLimit) refuseSize(bytes, at, size)
        if (size >= 0 && (size === 0 || at + size > bytes.length)) {
          remainder.hold(bytes, at, size)
          break
        }
        introduced = true
        // What is no packet is for Aedes to complain about.
        const end = size < 0 ? bytes.length : at + size
        const type = (bytes[at] as number) & 0xf0
        if (type === publishType) traffic.messages++
        else {
          const work = workOf(type, end - at)
          if (work > 0 && ((worked > 0 && worked + work > turnWork) || !throttle.mayWork(work))) {
            postponed = bytes.subarray(at)
            break
          }
          worked += work
        }
        fast = fast && take(bytes, at, end)
        if (!fast) {
          const problem = size < 0 ? null : packetProblem(bytes, at, end)
          if (problem) throw new Error(problem)
          finish()
          if (slowFrom < 0) slowFrom = at
          if (((bytes[at] as number) & 0xf6) === (publishType | 4)) aedesHasQos2 = true
        }
        at = end
      }
      finish()
      if (slowFrom >= 0) parseSlowly(bytes.subarray(slowFrom, at))
    }

    /** Takes a whole packet in; false when it is one for Aedes. */
    function take(bytes: Buffer, at: number, end: number): boolean {
      const first = bytes[at] as number
      let body = at + 1
      while ((bytes[body++] as number) > 127);
      if (first === pubrel && end - body === 2 && !aedesHasQos2) return takePubrel(bytes.readUInt16BE(body))
      const qos = (first >> 1) & 3
      if ((first & 0xf0) !== publishType || (first & retainFlag) !== 0 || qos === 3 || first === 0x38) return false
      if (qos === 2 && aedesHasQos2) return false
      if (end - body < 4) return false
      const topicEnd = body + 2 + bytes.readUInt16BE(body)
      const payload = qos === 0 ? topicEnd : topicEnd + 2
      if (payload > end || !findRoute(bytes, body + 2, topicEnd) || !nobodyHears(topic, qos)) return false
      const packetId = qos === 0 ? 0 : bytes.readUInt16BE(topicEnd)
      if (qos > 0 && packetId === 0) return false
      takePublish(bytes, payload, end, qos, packetId)
      return true
    }

    function takePublish(bytes: Buffer, start: number, end: number, qos: number, packetId: number): void {
      run ??= emptyRun('', '')
      const { length } = run.delivery.handshakes
      if (qos === 2 && !ingest.begin(client, packetId, topic, bytes.subarray(start, end), run.delivery)) {
        run.answers.push((pubrec << 16) | packetId)
        return
      }
      const known = route as Route
      const { readings, rejected } = ingest.read(client, known, bytes, start, end, run.delivery.received)
      if (rejected.length > 0) {
        // The quarantine keeps where each bad message came from, so it is a delivery of its own.
        const own = emptyRun(topic, ingest.deviceOf(client, known))
        own.delivery.handshakes = run.delivery.handshakes.splice(length)
        finish()
        run = own
        run.delivery.rejected = rejected
      }
      for (let i = 0; i < readings.length; i++) run.delivery.readings.push(readings[i] as (typeof readings)[number])
      if (qos > 0) run.answers.push(((qos === 1 ? puback : pubrec) << 16) | packetId)
      run.messages++
      if (rejected.length > 0) finish()
    }

    function takePubrel(packetId: number): boolean {
      if (packetId === 0) return false
      run ??= emptyRun('', '')
      if (incoming.has(client.id, packetId)) {
        run.delivery.handshakes.push({ client: client.id, packetId, digest: null })
      } else traffic.control++
      run.answers.push((pubcomp << 16) | packetId)
      return true
    }

    /** Sets `topic` and `route`; false when Aedes shall look at the topic. */
    function findRoute(bytes: Buffer, start: number, end: number): boolean {
      if (!isLastTopic(bytes, start, end)) {
        lastTopic = Buffer.from(bytes.subarray(start, end))
        topic = lastTopic.toString()
        const sound = topicProblem(topic) === null && topicLimit(topic, limits) === null
        route = sound && ingest.mayPublish(visitorOf(client), topic) ? ingest.routeOf(topic) : null
      }
      return route !== null
    }

    function isLastTopic(bytes: Buffer, start: number, end: number): boolean {
      const { length } = lastTopic
      if (end - start !== length) return false
      for (let i = 0; i < length; i++) if (bytes[start + i] !== lastTopic[i]) return false
      return true
    }

    function finish(): void {
      if (!run) return
      const { delivery, answers, messages } = run
      const settled = delivery.handshakes.map(({ packetId, digest }) =>
        digest === null ? incoming.ending(client.id, packetId) : incoming.storing(client.id, packetId),
      )
      run = null
      connection._parsingBatch++
      if (connection._keepaliveInterval > 0) connection._keepaliveTimer?.refresh()
      ingest.accept(client, delivery, (failure) => {
        if (failure !== null) return connection._nextBatch(new Error(failure))
        for (const settle of settled) settle()
        onPublished(messages)
        answer(answers)
      })
    }

    function answer(answers: number[]): void {
      const bytes = Buffer.allocUnsafe(answers.length * 4)
      for (let i = 0; i < answers.length; i++) {
        const entry = answers[i] as number
        bytes[i * 4] = entry >> 16
        bytes[i * 4 + 1] = 2
        bytes.writeUInt16BE(entry & 0xffff, i * 4 + 2)
      }
      const next = (error?: Error | null) => connection._nextBatch(error)
      if (connection.closed) return
      const room = bytes.length === 0 || connection.conn.write(bytes)
      onAnswered()
      // All of a commit is answered before more is read.
      if (room) setImmediate(next)
      else connection.waitForDrain(next)
    }
  }
}

function readAll(read: () => Buffer | null): Buffer | null {
  const pieces: Buffer[] = []
  for (let piece = read(); piece !== null; piece = read()) pieces.push(piece)
  return pieces.length > 1 ? Buffer.concat(pieces) : (pieces[0] ?? null)
}

function emptyRun(origin: string, device: string): Run {
  return { delivery: emptyDelivery(origin, device), answers: [], messages: 0 }
}
