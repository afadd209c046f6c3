import type { Duplex } from 'node:stream'
import type { Static, TSchema } from '@sinclair/typebox'
import type { FastifyPluginAsync, FastifyTypeProvider, RawServerDefault } from 'fastify'
import type { Sink } from '../../devices/sink.ts'
import type { TimeWindow } from '../../devices/time.ts'
import type { Router } from '../../devices/topics.ts'
import type { Access } from '../access/access.ts'
import type { AddressGuard } from '../delivery/addresses.ts'
import type { Consumers } from '../delivery/consumers.ts'
import type { Feed } from '../feed.ts'
import type { Store } from '../store/store.ts'
import type { Gate } from './gate.ts'
import type { Guards } from './guards.ts'

/** What the HTTP side works with. */
export interface HttpOptions {
  version: string
  access: Access
  /** Pages of these origins may use the API, with a token of their own. */
  corsOrigins: string[]
  /** Whose word counts for the address, the scheme and the host that a request came to. */
  trustedProxies: string[]
  store: Store
  feed: Feed
  consumers: Consumers
  /** Where webhooks may go. */
  guard: AddressGuard
  sink: Sink
  guards: Guards
  window: TimeWindow
  /** Where a topic leads, for what the quarantine feeds in again. */
  route: Router
  isOnline(device: string): boolean
  /** Why nothing can be stored at present, or `null`. */
  failure(): string | null
  /** The figures of the hub in the text format of Prometheus. */
  metrics(): Promise<string>
  /** Speaks MQTT over a stream, with whom the peer says. */
  attachMqtt(stream: Duplex, peer: { address: string; names: readonly string[]; secure: boolean }): void
}

/** What the routes work with. */
export interface HttpContext extends HttpOptions {
  gate: Gate
}

/** The schema of an address is also the type of what it takes and gives. */
export interface SchemaTypes extends FastifyTypeProvider {
  validator: this['schema'] extends TSchema ? Static<this['schema']> : unknown
  serializer: this['schema'] extends TSchema ? Static<this['schema']> : unknown
}

/** The addresses of one room, for the server to take in. */
export type Routes = FastifyPluginAsync<Record<never, never>, RawServerDefault, SchemaTypes>
