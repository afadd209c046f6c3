import { Socket } from 'node:net'
import { type Duplex, Readable } from 'node:stream'
import type { SecureContextOptions } from 'node:tls'
import { Aedes, type Client, type Subscription } from 'aedes'
import type { Sink } from '../devices/sink.ts'
import type { TimeWindow } from '../devices/time.ts'
import type { Router } from '../devices/topics.ts'
import { createAdmission } from './admission.ts'
import { createComplaints } from './complaints.ts'
import { type Doorman, visitorOf } from './doorman.ts'
import { createDoors, type TlsDoor } from './doors.ts'
import { createFastPath } from './fast-path.ts'
import { publishOrphans } from './former-run.ts'
import { createForwarding } from './forwarding.ts'
import { guarded } from './guard.ts'
import { createIngest } from './ingest.ts'
import { keepAlive } from './keep-alive.ts'
import { countReached, LimitReached, type Limits, type Reached } from './limits.ts'
import { createMatcher } from './matcher.ts'
import type { Peer } from './peer.ts'
import { createPresence, type Presence } from './presence.ts'
import { createReception, maxClientIdLength } from './reception.ts'
import { createRegistry } from './registry.ts'
import { answerRepeatedFilters } from './repeated-filters.ts'
import { createPersistence } from './sessions/persistence.ts'
import { createSessions, type Restored, type Sessions } from './sessions/sessions.ts'
import { createSubscriptions } from './subscriptions.ts'
import { createThrottles } from './throttle.ts'
import { createWrites } from './writes.ts'

export interface BrokerOptions {
  sink: Sink
  route: Router
  window: TimeWindow
  limits: Limits
  doorman: Doorman
  /** What a former run left behind. */
  restored: Restored
  /** Why nothing can be stored at present: then nobody new comes in, whose messages would only wait. */
  failure(): string | null
  /** A connection was closed for what it did, or nobody was let in; for the log. The peer is known from its start on. */
  onRefused(client: string, reason: string, peer: Peer | undefined): void
}

export interface Broker {
  /** Listens for MQTT over TCP; resolves with the port. */
  listen(port: number, host: string): Promise<number>
  /** Listens for MQTT over TLS; with `ca`, clients may show a certificate that it has signed. */
  listenTls(port: number, host: string, tls: SecureContextOptions): Promise<TlsDoor>
  /** Speaks MQTT over any stream, such as a WebSocket, when it is the turn of its address. */
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

// How long a decision about a client may take.
const decisionMillis = 10_000
// Timers take no more, and that is as good as never.
const never = 2 ** 31 - 1
// How late a session may be forgotten.
const expiryMillis = 60_000
// Never granted: it stands for a session in what Aedes restores.
const presentSession: Subscription = { topic: '$session', qos: 0 }
// Who does not drain within this time is disconnected; nobody waits for it meanwhile.
const drainTimeoutMillis = 10_000
const stalled = `it has not read what it was sent for ${drainTimeoutMillis / 1000} s`

export async function createBroker(options: BrokerOptions): Promise<Broker> {
  const { limits } = options
  const reached: Reached = {}
  const admission = createAdmission(limits, reached)
  const complain = createComplaints(options.onRefused)
  const sessions = createSessions(options.sink, limits, options.restored)
  const subscriptions = createSubscriptions(limits, sessions)
  const mayHave = (client: Client, filter: string) => refusalOf(client, filter) === null
  const persistence = createPersistence(sessions, options.sink, mayHave)
  const presence = createPresence<Client>(publishPresence)
  // A connection that ends fails all that it still had to do; one line tells it.
  const complained = new WeakSet<Client>()
  let published = 0
  let refused = 0
  let closing = false

  const ingest = createIngest({ ...options, sessions, heard })
  const reception = createReception({ ...options, mayPublish: ingest.mayPublish, sessions, ownerOf })
  const forwarding = createForwarding({ sessions, qosOf: (client, topic) => matcher.qosOf(client, topic) })
  const matcher = createMatcher(forwarding.publish)
  const writes = createWrites()
  const aedes = new Aedes({
    mq: matcher,
    // Aedes would publish the wills of others that share its store, and takes clients that live for such when the
    // clock jumps.
    persistence: { ...persistence, subscriptionsByClient, outgoingStream, streamWill: () => Readable.from([]) },
    // That of the reception goes on until the client is let in, this one ends with its CONNECT.
    connectTimeout: never,
    drainTimeout: drainTimeoutMillis,
    // Clients may send on before CONNACK; what they send is bounded by the size of a read.
    queueLimit: 10_000,
    // `maxOpenExchanges` is looked at before.
    maxInflightInbound: 0,
    maxClientsIdLength: maxClientIdLength,
    preConnect: guarded((client, packet, done) => {
      reception.connectArrived(client, packet)
      done(null, true)
    }),
    authenticate: guarded((client, username, password, done) => {
      const answer = reception.admit(client, username ?? '', password?.toString() ?? '')
      void answer.then((refusal) => (refusal ? done(refusal, null) : done(null, true)))
    }),
    // Nobody but clients publishes by this: the wills of others are not streamed.
    authorizePublish: guarded((client, packet, done) => ingest.authorizePublish(client as Client, packet, done)),
    authorizeSubscribe: guarded((client, subscription, done) => {
      const { topic } = subscription
      if (topic === presentSession.topic) return done(null, null)
      const refusal = refusalOf(client, topic)
      if (refusal !== null && refusal !== 'malformed' && refusal !== 'forbidden') countReached(reached, refusal)
      // A null subscription is answered with the failure code 0x80. [MQTT-3.9.3-2]
      done(null, refusal === null ? subscription : null)
    }, decisionMillis),
    published: guarded((_packet, _client, done) => {
      published++
      done()
    }),
  })
  await aedes.listen()
  const registry = createRegistry(aedes)
  const stopKeepingAlive = keepAlive(registry.clients)
  const takeFastPath = createFastPath({
    ingest,
    sessions,
    limits,
    throttle: createThrottles(limits, reached),
    nobodyHears: (topic, qos) => matcher.isSilent(topic) && !(qos > 0 && sessions.isWanted(topic)),
    onPublished: (messages) => {
      published += messages
    },
    onAnswered: writes.flushSoon,
  })
  const doors = createDoors({
    admission,
    handshakeTimeout: limits.connectTimeout,
    onConnection(stream, peer) {
      if (stream instanceof Socket) writes.coalesce(stream)
      begin(stream, peer)
    },
    onRefused(peer, error) {
      refused++
      if (closing) return
      if (error instanceof LimitReached) countReached(reached, error.limit)
      complain('', error.message, peer)
    },
  })

  aedes.on('connackSent', (_packet, client) => reception.answered(client))
  aedes.on('client', (client) => sessions.connected(client))
  aedes.on('clientDisconnect', (client) => {
    presence.ended(client)
    sessions.connectionEnded(client)
  })
  aedes.on('unsubscribe', (filters, client) => subscriptions.removed(client, filters))
  aedes.on('clientError', refuse)
  aedes.on('connectionError', refuse)
  ;(aedes as NodeJS.EventEmitter).on('error', (error: Error) => complain('', error.message, undefined))

  /** Why a client may not have a filter. What it may not hear counts for none of its limits. */
  function refusalOf(client: Client, filter: string) {
    // It hears nothing any more, and nobody would count it out.
    if (client.closed && client.clean) return null
    return visitorOf(client).maySubscribe(filter) ? subscriptions.problem(client, filter) : 'forbidden'
  }

  function refuse(client: Client, error: Error): void {
    refused++
    if (closing || complained.has(client)) return
    complained.add(client)
    if (error instanceof LimitReached) countReached(reached, error.limit)
    const reason = error.message === 'drain timeout' ? stalled : error.message
    complain(client.id ?? '', reason, reception.peerOf(client))
  }

  /** Whose client id it is, as far as anybody uses it; what nobody owns is for whoever comes first. */
  function ownerOf(clientId: string): string | null {
    const { clients } = aedes as unknown as { clients: Record<string, Client | undefined> }
    const connected = clients[clientId]
    return (connected && visitorOf(connected).identity) || sessions.ownerOf(clientId)
  }

  // Aedes takes a session for present that has subscriptions; one without may have messages that wait. [MQTT-3.2.2-2]
  async function subscriptionsByClient(client: { id: string }): Promise<Subscription[]> {
    const found = await persistence.subscriptionsByClient(client)
    return reception.isRemembered(client.id) ? [...found, presentSession] : found
  }

  // Asked when CONNACK is written.
  function outgoingStream(client: Client): Readable {
    forwarding.begin(client)
    return Readable.from([])
  }

  /** What ended with a former run that was killed: the connections, whose wills are due, and the presence of devices. */
  function finishFormerRun(): void {
    publishOrphans(aedes, sessions, ingest, options.doorman)
    for (const { topic, payload } of [...sessions.retained.matching(['devices/+/status'])]) {
      if (String(payload).startsWith('{"state":"online"')) {
        publishPresence(topic.split('/')[1] as string, { state: 'offline', since: Date.now() })
      }
    }
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

  function begin(stream: Duplex, peer: Peer): void {
    const client = aedes.handle(stream)
    // Before its first packet is read.
    reception.expect(client, peer)
    stream.on('close', () => {
      registry.ended(client)
      subscriptions.ended(client)
      forwarding.ended(client)
    })
    forwarding.adopt(client)
    answerRepeatedFilters(client)
    takeFastPath(client)
  }

  const { sessionExpiry, maxQueuedAge } = limits
  const lookMillis = Math.min(expiryMillis, sessionExpiry || expiryMillis, maxQueuedAge || expiryMillis)
  const expiring = setInterval(() => sessions.expire(Date.now()), lookMillis)
  finishFormerRun()

  return {
    listen: doors.listen,
    listenTls: doors.listenTls,
    attach: doors.attach,
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
        dropped: forwarding.dropped,
        sessions: sessions.figures,
      }
    },
    async close(settled) {
      closing = true
      clearInterval(expiring)
      stopKeepingAlive()
      admission.close()
      await doors.close(async () => {
        await settled()
        await new Promise<void>((resolve) => aedes.close(resolve))
      })
    },
  }
}
