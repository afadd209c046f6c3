import type { Client } from 'aedes'
import type { Peer } from './peer.ts'

/** What a client shows with its CONNECT. */
interface Knock {
  peer: Peer
  clientId: string
  username: string
  password: string
  /** Whether the client has hung up. */
  gone(): boolean
}

/** Why a client is not let in; the return code is one of MQTT 3.1.1 §3.2.2.3. */
interface Refusal {
  reason: string
  returnCode: 2 | 3 | 4 | 5
}

/** Somebody who was let in, and what that allows. */
export interface Visitor {
  /** Owns its client ids and sessions; empty where nobody needs credentials. */
  identity: string
  /** Whose telemetry is on topics that name no device. */
  device: string
  maySpeakFor(device: string): boolean
  mayPublish(topic: string): boolean
  maySubscribe(filter: string): boolean
  /** Its credential is no longer good: the connection ends. */
  revocation: {
    readonly revoked: boolean
    /** Calls once, when it happens; at once, if it has. Gives what takes that back. */
    onRevoked(listener: () => void): () => void
  }
}

/** Decides who comes in. */
export interface Doorman {
  admit(knock: Knock): Promise<Visitor | Refusal>
  /** Somebody who was in when the hub was killed, as `admit` had described it; `null`: it would not be let in now. */
  recall(known: Pick<Visitor, 'identity' | 'device'>): Visitor | null
}

/** A client that was let in, or whose CONNECT is being looked at. */
export interface Guest extends Client {
  visitor?: Visitor
}

/** A connection that was not let in. */
const nobody: Visitor = {
  identity: '',
  device: '',
  maySpeakFor: () => false,
  mayPublish: () => false,
  maySubscribe: () => false,
  revocation: { revoked: false, onRevoked: () => () => {} },
}

export function visitorOf(client: Client): Visitor {
  return (client as Guest).visitor ?? nobody
}
