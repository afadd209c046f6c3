import { createServer, type Server, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { SecureContextOptions } from 'node:tls'
import { Aedes, type AedesPublishPacket, type AuthenticateError, type Client } from 'aedes'
import type { Sink } from '../devices/sink.ts'
import type { TimeWindow } from '../devices/time.ts'
import type { Router } from '../devices/topics.ts'
import { type Doorman, type Guest, visitorOf } from './doorman.ts'
import { createFastPath } from './fast-path.ts'
import { guarded, maxUnsentBytes } from './guard.ts'
import { createIngest } from './ingest.ts'
import type { Limits } from './limits.ts'
import { badText, createMatcher, filterProblem, matchesFilter } from './matcher.ts'
import type { Peer } from './peer.ts'
import { createPresence, type Presence } from './presence.ts'
import { createSessions, type OpenExchanges, type Sessions } from './sessions.ts'
import { listenTls, type TlsListener } from './tls-listener.ts'
import { createWrites, socketBuffer } from './writes.ts'

export interface BrokerOptions {
  sink: Sink
  route: Router
  window: TimeWindow
  limits: Limits
  doorman: Doorman
  /** QoS 2 exchanges that a former run left open. */
  handshakes: readonly OpenExchanges[]
  /** Why nothing can be stored at present: then nobody new comes in, whose messages would only wait. */
  failure(): string | null
  /** A connection was closed for what it did; for the log. */
  onRefused(client: string, reason: string, peer: Peer | undefined): void
}

export interface Broker {
  /** Listens for MQTT over TCP; resolves with the port. */
  listen(port: number, host: string): Promise<number>
  /** Listens for MQTT over TLS; with `ca`, clients may show a certificate that it has signed. */
  listenTls(port: number, host: string, tls: SecureContextOptions): Promise<Pick<TlsListener, 'port' | 'renew'>>
  /** Speaks MQTT over any stream, such as a WebSocket. */
  attach(stream: Duplex, peer: Peer): void
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
  devicesOnline: number
  published: number
  refused: number
  dropped: number
  sessions: Sessions['figures']
}

const maxClientIdLength = 128
// Who does not drain within this time is disconnected; nobody waits for it meanwhile.
const drainTimeoutMillis = 10_000

export async function createBroker(options: BrokerOptions): Promise<Broker> {
  const persistence = createSessions(options.sink, options.limits, options.handshakes)
  const { sessions } = persistence
  const presence = createPresence<Client>(publishPresence)
  const knocks = new WeakMap<Client, { refusal: AuthenticateError | null; willTopic: string | null }>()
  // A connection that ends fails all that it still had to do; one line tells it.
  const complained = new WeakSet<Client>()
  const streams = new Set<Duplex>()
  const peers = new WeakMap<Client, Peer>()
  const tlsListeners: TlsListener[] = []
  let published = 0
  let refused = 0
  let dropped = 0
  let closing = false

  const ingest = createIngest({ ...options, sessions, heard: presence.heard })
  const matcher = createMatcher()
  const writes = createWrites()
  const aedes = new Aedes({
    mq: matcher,
    persistence,
    connectTimeout: options.limits.connectTimeout,
    drainTimeout: drainTimeoutMillis,
    // Clients may send on before CONNACK; what they send is bounded by the size of a read.
    queueLimit: 10_000,
    maxClientsIdLength: maxClientIdLength,
    preConnect: guarded((client, packet, done) => {
      const refusal = options.failure() === null ? connectProblem(packet.clientId, packet.clean) : unavailable()
      knocks.set(client, { refusal, willTopic: packet.will?.topic ?? null })
      done(null, true)
    }),
    authenticate: guarded((client, username, password, done) => {
      admit(client, username ?? '', password?.toString() ?? '').then(
        (refused) => (refused ? done(refused, null) : done(null, true)),
        (error) => done(refusal((error as Error).message, serverUnavailable), null),
      )
    }),
    authorizePublish: guarded(ingest.authorizePublish),
    authorizeSubscribe: guarded((client, { topic, ...subscription }, done) => {
      const allowed = filterProblem(topic) === null && visitorOf(client).maySubscribe(topic)
      // A null subscription is answered with the failure code 0x80. [MQTT-3.9.3-2]
      done(null, allowed ? { topic, ...subscription } : null)
    }),
    authorizeForward,
    published(_packet, _client, done) {
      published++
      done()
    },
  })
  await aedes.listen()
  const takeFastPath = createFastPath({
    ingest,
    sessions,
    maxPacketBytes: options.limits.maxPacketSize,
    nobodyHears: (topic, qos) => matcher.isSilent(topic) && !(qos > 0 && sessions.isWanted(topic)),
    onPublished: (messages) => {
      published += messages
    },
    onAnswered: writes.flushSoon,
  })

  aedes.on('clientDisconnect', (client) => {
    presence.ended(client)
    sessions.connectionEnded(client.id)
  })
  aedes.on('clientError', refuse)
  aedes.on('connectionError', refuse)
  ;(aedes as NodeJS.EventEmitter).on('error', (error: Error) => options.onRefused('', error.message, undefined))

  /** Lets a client in, or says why not. */
  async function admit(client: Guest, username: string, password: string): Promise<AuthenticateError | null> {
    const { refusal: problem, willTopic } = knocks.get(client) ?? { refusal: null, willTopic: null }
    if (problem) return problem
    const peer = peers.get(client) as Peer
    const visitor = await options.doorman.admit({ peer, clientId: client.id, username, password })
    if ('reason' in visitor) return refusal(visitor.reason, visitor.returnCode)
    const owner = ownerOf(client.id)
    if (owner !== null && owner !== visitor.identity) {
      return refusal('the client id belongs to somebody else: choose another one', identifierRejected)
    }
    if (willTopic !== null && !ingest.mayPublish(visitor, willTopic)) {
      return refusal(`the will may not be published to ${willTopic}`, notAuthorized)
    }
    client.visitor = visitor
    const end = () => client.close()
    visitor.signal.addEventListener('abort', end)
    client.conn.once('close', () => visitor.signal.removeEventListener('abort', end))
    // Revoked while it was being let in.
    return visitor.signal.aborted ? refusal('the credential is no longer good', notAuthorized) : null
  }

  /** Whose client id it is, as far as anybody uses it; what nobody owns is for whoever comes first. */
  function ownerOf(clientId: string): string | null {
    const { clients } = aedes as unknown as { clients: Record<string, Client | undefined> }
    return visitorOf(clients[clientId] ?? null).identity || null
  }

  function refuse(client: Client, error: Error): void {
    refused++
    if (closing || complained.has(client)) return
    complained.add(client)
    options.onRefused(client.id ?? '', error.message, peers.get(client))
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

  const server = createServer({ highWaterMark: socketBuffer, noDelay: true }, (socket) => {
    take(socket, { address: socket.remoteAddress ?? '', names: [], secure: false })
  })

  function take(socket: Socket, peer: Peer): void {
    writes.coalesce(socket)
    attach(socket, peer)
  }

  function attach(stream: Duplex, peer: Peer): void {
    track(stream)
    const client = aedes.handle(stream)
    // Before its first packet is read.
    peers.set(client, peer)
    takeFastPath(client)
  }

  function track(stream: Duplex): void {
    streams.add(stream)
    stream.on('close', () => streams.delete(stream))
  }

  return {
    listen: (port, host) => listen(server, port, host),
    async listenTls(port, host, tls) {
      const listener = await listenTls({
        port,
        host,
        tls,
        handshakeTimeout: options.limits.connectTimeout,
        onSocket: track,
        onConnection: take,
        onRefused(peer, reason) {
          refused++
          if (!closing) options.onRefused('', reason, peer)
        },
      })
      tlsListeners.push(listener)
      return listener
    },
    attach,
    isOnline: presence.isOnline,
    get figures() {
      return {
        connections: aedes.connectedClients,
        devicesOnline: presence.online,
        published,
        refused,
        dropped,
        sessions: sessions.figures,
      }
    },
    async close(settled) {
      closing = true
      const serversClosed = [
        new Promise<void>((resolve) => server.close(() => resolve())),
        ...tlsListeners.map((listener) => listener.close()),
      ]
      await settled()
      await new Promise<void>((resolve) => aedes.close(resolve))
      // Aedes knows only those who have sent their CONNECT.
      for (const stream of streams) stream.destroy()
      await Promise.all(serversClosed)
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
const notAuthorized = 5

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
