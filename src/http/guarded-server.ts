import type { IncomingMessage, Server } from 'node:http'
import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import type { FastifyHttpOptions, FastifyInstance } from 'fastify'
import type { WebSocket } from 'ws'
import { Problem, problems } from '../errors.ts'
import type { Guards } from './guards.ts'
import { isForWebSockets, wantsWebSocket } from './upgrades.ts'

/** How often the timeouts of requests are looked at. */
const checkMillis = 1_000
/** The system asks peers that say nothing whether they are there. */
const probeMillis = 60_000
/** How long a peer may take to read why a WebSocket is closed. */
const closeMillis = 1_000

/** The options of a server that does not wait for slow or endless requests, nor for handshakes of TLS. */
export function guardedOptions({ limits, unreadable }: Guards) {
  const { headersTimeout, requestTimeout, idleTimeout, maxHeaderSize, maxBodySize } = limits
  return {
    bodyLimit: maxBodySize,
    requestTimeout,
    // Also for who asks and does not take the answer.
    connectionTimeout: idleTimeout,
    keepAliveTimeout: idleTimeout,
    clientErrorHandler: unreadable,
    http: {
      maxHeaderSize,
      headersTimeout: Math.min(headersTimeout, requestTimeout),
      requestTimeout,
      connectionsCheckingInterval: Math.min(checkMillis, headersTimeout, requestTimeout),
      keepAlive: true,
      keepAliveInitialDelay: probeMillis,
      // Its lack is a problem like any other, and not an empty answer.
      requireHostHeader: false,
      // The types of Node 20 do not know it.
      ...{ shouldUpgradeCallback: isForWebSockets },
    },
  } satisfies FastifyHttpOptions<Server>
}

/** Puts the guards at the doors of the server: its connections, its requests, and its answers. */
export function guardServer(app: FastifyInstance, guards: Guards): void {
  app.server.on('connection', (socket: Socket) => guards.connected(socket))
  // Before Node calls it a request that cannot be read: what is written without a session never leaves.
  app.server.prependListener('tlsClientError', (error: NodeJS.ErrnoException, socket: TLSSocket) => {
    if (error.code === 'ERR_TLS_HANDSHAKE_TIMEOUT') guards.count('headersTimeout')
    socket.destroy()
  })
  app.server.on('timeout', (socket: Socket) => {
    guards.count('idleTimeout')
    socket.destroy()
  })
  // Accepting one connection may fail, for want of memory or files, and the next one may succeed.
  app.server.once('listening', () => {
    app.server.on('error', (error) => app.log.warn({ err: error }, 'a connection could not be accepted'))
  })
  // An expectation that nobody knows may be passed over. RFC 9110 §10.1.1
  app.server.on('checkExpectation', (request, response) => app.server.emit('request', request, response))
  // The system of a client that has gone may say so before anybody listens to the new protocol.
  app.server.prependListener('upgrade', (_request, socket: Socket) => {
    socket.on('error', () => {})
    // HTTP does not read it any more: unless the new protocol does, which ends this, nobody would see its end.
    socket.setTimeout(guards.limits.headersTimeout, () => socket.destroy())
    // The answer to a request before this one would come in the middle of the new protocol. RFC 9110 §7.8
    if (guards.isAnswering(socket)) socket.destroy()
  })
  app.addHook('onRequest', async ({ raw, ip }, reply) => {
    // Its body would be waited for on a connection that HTTP no longer reads, or in vain.
    if (raw.method !== 'GET' && wantsWebSocket(raw)) {
      reply.header('connection', 'close')
      throw new Problem('invalid-request', `${raw.method} cannot be upgraded`)
    }
    // The address of a connection is forgotten when that has ended.
    guards.requested(raw.socket, ip ?? '', raw.rawHeaders.length / 2, reply.raw)
  })
  // Nobody reads on from a connection that was to be upgraded and was refused, so nobody would see it end.
  app.addHook('onResponse', async ({ raw }) => {
    if (isUpgrade(raw)) raw.socket.destroy()
  })
  app.addHook('onSend', async (_request, reply, payload) => {
    if (reply.statusCode === problems['too-large'].status) {
      guards.count('maxBodySize')
      // Who is cut off while sending may never see the answer. What still comes is passed over, until the request is late.
      reply.removeHeader('connection')
    }
    if (payload instanceof Uint8Array || typeof payload === 'string') guards.answered(payload.length, reply.raw)
  })
}

function isUpgrade(request: IncomingMessage): boolean {
  return (request as { upgrade?: boolean }).upgrade === true
}

/** A WebSocket whose reader is not expected to say anything; with `speaks` only pings count. */
export function guardSocket(socket: WebSocket, guards: Guards, speaks: boolean): void {
  const mayPass = guards.frames()
  // What is sent waits for what was sent before, and `ws` hangs up on who takes no pongs.
  const frame = (): void => {
    if (mayPass()) return
    socket.close(1008, 'too many frames that nobody asked for')
    setImmediate(() => socket.terminate())
  }
  socket.on('ping', frame)
  socket.on('pong', frame)
  if (!speaks) socket.on('message', frame)
}

/** Ends a WebSocket on which something went wrong. */
export function failSocket({ code }: NodeJS.ErrnoException, socket: WebSocket, guards: Guards): void {
  if (code !== 'WS_ERR_UNSUPPORTED_MESSAGE_LENGTH') return socket.terminate()
  guards.count('maxPacketSize')
  // It is told so by the code 1009. RFC 6455 §7.4.1
  setTimeout(() => socket.terminate(), closeMillis).unref()
}
