import type { AuthenticateError, Client, ConnectPacket } from 'aedes'
import type { Doorman, Guest, Visitor } from './doorman.ts'
import { LimitReached, type Limits, topicLimit } from './limits.ts'
import { badText, topicProblem } from './matcher.ts'
import type { Peer } from './peer.ts'
import { ownCopy } from './sessions/retained.ts'
import type { Sessions } from './sessions/sessions.ts'

export interface ReceptionOptions {
  doorman: Doorman
  limits: Limits
  /** Why nothing can be stored at present, or `null`. */
  failure(): string | null
  mayPublish(visitor: Visitor, topic: string): boolean
  sessions: Pick<Sessions, 'hasRoomFor' | 'open'>
  /** Whose a client id is; `null`: nobody's. */
  ownerOf(clientId: string): string | null
}

type Will = NonNullable<ConnectPacket['will']>

export const maxClientIdLength = 128

/** From the first byte of a connection to its CONNACK: who comes in, and as what. */
export function createReception(options: ReceptionOptions) {
  const { doorman, limits, failure, mayPublish, sessions, ownerOf } = options
  const { connectTimeout } = limits
  const peers = new WeakMap<Client, Peer>()
  const timers = new WeakMap<Client, NodeJS.Timeout>()
  // What CONNECT says besides what Aedes hands on.
  const connects = new WeakMap<Client, ConnectPacket>()
  // Clients that are being let in and were here before.
  const remembered = new Set<string>()

  async function admit(client: Guest, username: string, password: string): Promise<AuthenticateError | null> {
    const connect = connects.get(client) as ConnectPacket
    if (failure() !== null) return refusal('nothing can be stored', serverUnavailable)
    const problem = connectProblem(connect) ?? (connect.will ? willProblem(connect.will, limits) : null)
    if (problem) return problem
    const peer = peers.get(client) as Peer
    const visitor = await doorman.admit({ peer, clientId: client.id, username, password, gone: () => hasGone(client) })
    // Aedes goes no further with it, and nothing may be left of it.
    if (client.closed) return refusal('the connection has ended meanwhile')
    if ('reason' in visitor) return refusal(visitor.reason, visitor.returnCode)
    const owner = ownerOf(client.id)
    if (owner !== null && owner !== visitor.identity) {
      return refusal('the client id belongs to somebody else: choose another one', identifierRejected)
    }
    if (connect.will && !mayPublish(visitor, connect.will.topic)) {
      return refusal(`the will may not be published to ${connect.will.topic}`, notAuthorized)
    }
    if (!connect.clean && !sessions.hasRoomFor(client.id)) {
      return refusal('as many clients are remembered as may be: come without a session', serverUnavailable)
    }
    client.visitor = visitor
    if (connect.will) connect.will.payload = ownCopy(connect.will.payload)
    remembered.delete(client.id)
    if (!connect.clean && sessions.open(client.id, visitor.identity)) remembered.add(client.id)
    const { revocation } = visitor
    // Revoked while it was being let in.
    if (revocation.revoked) return refusal('the credential is no longer good', notAuthorized)
    client.conn.once(
      'close',
      revocation.onRevoked(() => client.close()),
    )
    return null
  }

  return {
    peerOf: (client: Client): Peer | undefined => peers.get(client),
    /** A connection has begun; who is not let in within the time is closed. */
    expect(client: Client, peer: Peer): void {
      peers.set(client, peer)
      const timer = setTimeout(() => {
        client.emit('error', new LimitReached('connectTimeout', `not connected within ${connectTimeout / 1000} s`))
      }, connectTimeout)
      timers.set(client, timer)
      client.conn.once('close', () => clearTimeout(timer))
    },
    /** It is let in, or refused. */
    answered(client: Client): void {
      clearTimeout(timers.get(client))
      remembered.delete(client.id)
      connects.delete(client)
      // The parser keeps the whole CONNECT, with what else the same read brought, for the sake of these.
      const { _parser } = client as Client & {
        _parser: { settings: { protocolVersion?: number; bridgeMode?: boolean } }
      }
      const { protocolVersion = 4, bridgeMode = false } = _parser.settings
      _parser.settings = { protocolVersion, bridgeMode }
    },
    /** A client that is being let in has a session of before. */
    isRemembered: (clientId: string): boolean => remembered.has(clientId),
    connectArrived: (client: Client, packet: ConnectPacket): void => void connects.set(client, packet),
    /** Lets a client in (`null`), or says why not. */
    admit: (client: Client, username: string, password: string): Promise<AuthenticateError | null> =>
      admit(client, username, password).catch((error: Error) => refusal(error.message, serverUnavailable)),
  }
}

/** Nothing is read while a client is being let in, so the end of what it sends is known to the stream alone. */
function hasGone({ closed, conn }: Client): boolean {
  return closed || (conn as unknown as { _readableState: { ended: boolean } })._readableState.ended
}

function connectProblem({ clientId, clean, protocolVersion }: ConnectPacket): AuthenticateError | null {
  // [MQTT-3.1.3-8]
  if (clientId === '' && clean === false) return refusal('a persistent session needs a client id')
  if (clientId.length > maxClientIdLength)
    return refusal(`the client id is longer than ${maxClientIdLength} characters`)
  // Only MQTT 3.1.1 names who comes without a name.
  if (clientId === '' && protocolVersion === 3) return refusal('MQTT 3.1 needs a client id')
  return badText(clientId) ? refusal('the client id must be UTF-8 without the character U+0000') : null
}

/** A will is a message that comes later, when nobody is there to be told that it is none. */
function willProblem({ topic, payload, qos = 0 }: Will, limits: Limits): AuthenticateError | null {
  const problem = topicProblem(topic)
  if (problem) return refusal(`the will: ${problem}`)
  // [MQTT-3.1.2-14]
  if (qos > 2) return refusal('the will has both QoS bits set')
  const limit = payload.length > limits.maxWillSize ? 'maxWillSize' : topicLimit(topic, limits)
  if (!limit) return null
  const reached = new LimitReached(limit, `the will is beyond ${limit}, which is ${limits[limit]}`)
  return Object.assign(reached, { returnCode: notAuthorized }) as AuthenticateError
}

// MQTT 3.1.1 §3.2.2.3
const identifierRejected = 2
const serverUnavailable = 3
const notAuthorized = 5

function refusal(message: string, returnCode = identifierRejected): AuthenticateError {
  return Object.assign(new Error(message), { returnCode }) as AuthenticateError
}
