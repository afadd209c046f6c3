import type { AuthenticateError, Client, ConnectPacket } from 'aedes'
import type { Millis } from '../devices/reading.ts'
import type { Doorman, Guest, Visitor } from './doorman.ts'
import { LimitReached } from './limits.ts'
import { badText } from './matcher.ts'
import type { Peer } from './peer.ts'
import type { Sessions } from './sessions/sessions.ts'

export interface ReceptionOptions {
  doorman: Doorman
  connectTimeout: Millis
  /** Why nothing can be stored at present, or `null`. */
  failure(): string | null
  mayPublish(visitor: Visitor, topic: string): boolean
  sessions: Pick<Sessions, 'hasRoomFor' | 'open'>
  /** Whose a client id is; `null`: nobody's. */
  ownerOf(clientId: string): string | null
}

export const maxClientIdLength = 128

/** From the first byte of a connection to its CONNACK: who comes in, and as what. */
export function createReception(options: ReceptionOptions) {
  const { doorman, connectTimeout, failure, mayPublish, sessions, ownerOf } = options
  const peers = new WeakMap<Client, Peer>()
  const timers = new WeakMap<Client, NodeJS.Timeout>()
  // What CONNECT says besides what Aedes hands on.
  const connects = new WeakMap<Client, ConnectPacket>()
  // Clients that are being let in and were here before.
  const remembered = new Set<string>()

  async function admit(client: Guest, username: string, password: string): Promise<AuthenticateError | null> {
    const connect = connects.get(client) as ConnectPacket
    const problem = failure() === null ? connectProblem(connect) : refusal('nothing can be stored', serverUnavailable)
    if (problem) return problem
    const peer = peers.get(client) as Peer
    const visitor = await doorman.admit({ peer, clientId: client.id, username, password, gone: () => hasGone(client) })
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
    remembered.delete(client.id)
    if (!connect.clean && sessions.open(client.id, visitor.identity)) remembered.add(client.id)
    const end = () => client.close()
    visitor.signal.addEventListener('abort', end)
    client.conn.once('close', () => visitor.signal.removeEventListener('abort', end))
    // Revoked while it was being let in.
    return visitor.signal.aborted ? refusal('the credential is no longer good', notAuthorized) : null
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

function connectProblem({ clientId, clean }: ConnectPacket): AuthenticateError | null {
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
  return Object.assign(new Error(message), { returnCode }) as AuthenticateError
}
