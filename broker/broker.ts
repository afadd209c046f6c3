import { createServer, type Server, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { Aedes, type AedesPublishPacket, type AuthenticateError, type Client } from 'aedes'
import type { Sink } from '../devices/sink.ts'
import type { TimeWindow } from '../devices/time.ts'
import type { Router } from '../devices/topics.ts'
import { createAdmission } from './admission.ts'
import { createComplaints } from './complaints.ts'
import { createFastPath } from './fast-path.ts'
import { guarded, maxUnsentBytes } from './guard.ts'
import { createIngest } from './ingest.ts'
import { countReached, LimitReached, type Limits, type Reached } from './limits.ts'
import { badText, createMatcher, matchesFilter } from './matcher.ts'
import { createPresence, type Presence } from './presence.ts'
import { createRegistry } from './registry.ts'
import { createSessions, type OpenExchanges, type Sessions } from './sessions.ts'
import { createSubscriptions } from './subscriptions.ts'
import { createThrottle } from './throttle.ts'
import { createWrites } from './writes.ts'

export interface BrokerOptions {
  sink: Sink
  route: Router
  window: TimeWindow
  limits: Limits
  /** QoS 2 exchanges that a former run left open. */
  handshakes: readonly OpenExchanges[]
  /** Why nothing can be stored at present: then nobody new comes in, whose messages would only wait. */
  failure(): string | null
  /** A connection was closed for what it did; for the log. */
  onRefused(client: string, reason: string): void
}

export interface Broker {
  /** Listens for MQTT over TCP; resolves with the port. */
  listen(port: number, host: string): Promise<number>
  /** Speaks MQTT over any stream, such as a WebSocket, when it is the turn of its address. */
  attach(stream: Duplex, address: string): void
  isOnline(device: string): boolean
  readonly figures: BrokerFigures
  /**
   * No new connections; those that are open end after `settled` has resolved, when what had arrived by then is
   * acknowledged.
   */
  close(settled: () => Promise<void>): Promise<void>
}

/** Counted since the start, or as it is now. */
interface BrokerFigures {
  connections: number
  /** Open connections, also those that have sent no CONNECT; and of these, those whose turn has not come. */
  sockets: { open: number; waiting: number }
  subscriptions: number
  reached: Reached
  devicesOnline: number
  published: number
  refused: number
  dropped: number
  sessions: Sessions['figures']
}

// Larger reads make larger commits: all that one read holds is parsed and committed together.
const socketBuffer = 256 * 1024
const maxClientIdLength = 128
// A peer that has lost its power says nothing more, and its connection would stay for ever: the system asks.
const probeMillis = 60_000
// How long a decision about a client may take.
const decisionMillis = 10_000
// Timers take no more, and that is as good as never.
const never = 2 ** 31 - 1
// Who does not drain within this time is disconnected; nobody waits for it meanwhile.
const drainTimeoutMillis = 10_000

export async function createBroker(options: BrokerOptions): Promise<Broker> {
  const { limits } = options
  const reached: Reached = {}
  const admission = createAdmission(limits, reached)
  const subscriptions = createSubscriptions(limits)
  const complain = createComplaints(options.onRefused)
  const persistence = createSessions(options.sink, limits, options.handshakes, subscriptions)
  const { sessions } = persistence
  const presence = createPresence<Client>(publishPresence)
  const refusals = new WeakMap<Client, AuthenticateError>()
  // A connection that ends fails all that it still had to do; one line tells it.
  const complained = new WeakSet<Client>()
  const streams = new Set<Duplex>()
  const connecting = new WeakMap<Client, NodeJS.Timeout>()
  let published = 0
  let refused = 0
  let dropped = 0
  let closing = false

  const ingest = createIngest({ ...options, sessions, heard })
  const matcher = createMatcher()
  const writes = createWrites()
  const aedes = new Aedes({
    mq: matcher,
    persistence,
    // Ours goes on until the client is let in, this one ends with its CONNECT.
    connectTimeout: never,
    drainTimeout: drainTimeoutMillis,
    // Clients may send on before CONNACK; what they send is bounded by the size of a read.
    queueLimit: 10_000,
    maxClientsIdLength: maxClientIdLength,
    preConnect: guarded((client, packet, done) => {
      const refusal = options.failure() === null ? connectProblem(packet.clientId, packet.clean) : unavailable()
      if (refusal) refusals.set(client, refusal)
      Object.assign(client, { username: packet.username })
      done(null, true)
    }),
    authenticate: guarded((client, _username, _password, done) => {
      const refusal = refusals.get(client)
      if (refusal) done(refusal, null)
      else done(null, true)
    }),
    authorizePublish: guarded(ingest.authorizePublish),
    authorizeSubscribe: guarded((client, subscription, done) => {
      const problem = client.closed ? null : subscriptions.problem(client, subscription.topic)
      if (problem !== null && problem !== 'malformed') countReached(reached, problem)
      // A null subscription is answered with the failure code 0x80. [MQTT-3.9.3-2]
      done(null, problem === null ? subscription : null)
    }, decisionMillis),
    authorizeForward(client, packet) {
      try {
        return authorizeForward(client, packet)
      } catch (error) {
        complain(client.id, `a message was not forwarded: ${(error as Error).message}`)
        return null
      }
    },
    published: guarded((_packet, _client, done) => {
      published++
      done()
    }),
  })
  await aedes.listen()
  const registry = createRegistry(aedes)
  const takeFastPath = createFastPath({
    ingest,
    sessions,
    limits,
    throttle: () => createThrottle(limits, reached),
    nobodyHears: (topic, qos) => matcher.isSilent(topic) && !(qos > 0 && sessions.isWanted(topic)),
    onPublished: (messages) => {
      published += messages
    },
    onAnswered: writes.flushSoon,
  })

  aedes.on('connackSent', (_packet, client) => clearTimeout(connecting.get(client)))
  aedes.on('clientDisconnect', (client) => {
    presence.ended(client)
    sessions.connectionEnded(client.id)
  })
  aedes.on('unsubscribe', (filters, client) => subscriptions.removed(client, filters))
  aedes.on('clientError', refuse)
  aedes.on('connectionError', refuse)
  ;(aedes as NodeJS.EventEmitter).on('error', (error: Error) => complain('', error.message))

  function refuse(client: Client, error: Error): void {
    refused++
    if (closing || complained.has(client)) return
    complained.add(client)
    if (error instanceof LimitReached) countReached(reached, error.limit)
    complain(client.id ?? '', error.message)
  }

  function heard(client: Client, device: string): void {
    // The will of a device that has gone is telemetry of it, and no sign of life.
    if (!client.closed) presence.heard(client, device)
  }

  function publishPresence(device: string, { state, since }: Presence): void {
    const packet = {
      cmd: 'publish' as const,
      topic: `devices/${device}/status`,
      payload: JSON.stringify({ state, since }),
      qos: 1 as const,
      retain: true,
      dup: false,
    }
    aedes.publish({ ...packet, payload: Buffer.from(packet.payload) }, () => {})
  }

  // Called for each subscriber of each message, just before it is written.
  function authorizeForward(client: Client, packet: AedesPublishPacket): AedesPublishPacket | null {
    if (client.conn.writableLength > maxUnsentBytes) {
      dropped++
      if (packet.qos === 0) return null
      // At QoS 1 and 2 nothing may be skipped: the connection ends, and a persistent session gets it all later.
      client.conn.destroy()
      return packet
    }
    if (packet.qos === 0) return packet
    const granted = grantedQos(client, packet.topic)
    return granted < packet.qos
      ? Object.assign(Object.create(Object.getPrototypeOf(packet)), packet, { qos: granted })
      : packet
  }

  const sockets = { highWaterMark: socketBuffer, noDelay: true, keepAlive: true, keepAliveInitialDelay: probeMillis }
  const server = createServer({ ...sockets, pauseOnConnect: true }, (socket: Socket) => {
    writes.coalesce(socket)
    attach(socket, socket.remoteAddress ?? '')
  })
  // Accepting one connection may fail, for want of memory or files, and the next one may succeed.
  server.on('error', (error) => complain('', error.message))

  function attach(stream: Duplex, address: string): void {
    // Until Aedes listens.
    stream.on('error', () => {})
    streams.add(stream)
    stream.on('close', () => streams.delete(stream))
    admission.enter(stream, address, () => serve(stream))
  }

  function serve(stream: Duplex): void {
    const client = aedes.handle(stream)
    const { connectTimeout } = limits
    const timer = setTimeout(() => {
      client.emit('error', new LimitReached('connectTimeout', `not connected within ${connectTimeout / 1000} s`))
    }, connectTimeout)
    connecting.set(client, timer)
    stream.on('close', () => {
      clearTimeout(timer)
      registry.ended(client)
      subscriptions.ended(client)
    })
    takeFastPath(client)
  }

  return {
    listen: (port, host) => listen(server, port, host),
    attach,
    isOnline: presence.isOnline,
    get figures() {
      return {
        connections: registry.connected,
        sockets: admission.figures,
        subscriptions: subscriptions.count,
        reached,
        devicesOnline: presence.online,
        published,
        refused,
        dropped,
        sessions: sessions.figures,
      }
    },
    async close(settled) {
      closing = true
      admission.close()
      const serverClosed = new Promise<void>((resolve) => server.close(() => resolve()))
      await settled()
      await new Promise<void>((resolve) => aedes.close(resolve))
      // Aedes knows only those who have sent their CONNECT.
      for (const stream of streams) stream.destroy()
      await serverClosed
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

function connectProblem(clientId: string, clean: boolean | undefined): AuthenticateError | null {
  // [MQTT-3.1.3-8]
  if (clientId === '' && clean === false) return refusal('a persistent session needs a client id')
  if (clientId.length > maxClientIdLength)
    return refusal(`the client id is longer than ${maxClientIdLength} characters`)
  return badText(clientId) ? refusal('the client id must be UTF-8 without the character U+0000') : null
}

// MQTT 3.1.1 §3.2.2.3
const identifierRejected = 2
const serverUnavailable = 3

function refusal(message: string, returnCode = identifierRejected): AuthenticateError {
  return Object.assign(new Error(message), { returnCode })
}

function unavailable(): AuthenticateError {
  return refusal('nothing can be stored at present', serverUnavailable)
}

function listen(server: Server, port: number, host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, () => {
      server.off('error', reject)
      resolve((server.address() as { port: number }).port)
    })
  })
}
