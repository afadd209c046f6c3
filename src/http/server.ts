import type { SecureContextOptions } from 'node:tls'
import cors from '@fastify/cors'
import websocket from '@fastify/websocket'
import fastify, { type FastifyInstance, type FastifyServerOptions, LogController } from 'fastify'
import type { Logger } from 'pino'
import { createWebSocketStream } from 'ws'
import { Problem } from '../errors.ts'
import { accessRoutes } from './access-routes.ts'
import { readBodies } from './bodies.ts'
import { lateCompilers } from './compilers.ts'
import { consumerRoutes } from './consumer-routes.ts'
import type { HttpContext, HttpOptions, SchemaTypes } from './context.ts'
import { deviceRoutes } from './device-routes.ts'
import type { Address } from './documentation.ts'
import { feedRoutes } from './feed-routes.ts'
import { openGate } from './gate.ts'
import { failSocket, guardedOptions, guardServer, guardSocket } from './guarded-server.ts'
import { setSecurityHeaders } from './headers.ts'
import { historyRoutes } from './history-routes.ts'
import { ingestRoutes } from './ingest-routes.ts'
import { operationsRoutes } from './operations-routes.ts'
import { refuseForeignPages } from './origin.ts'
import { refuseUnknownParameters } from './parameters.ts'
import { answerProblems, answerUnroutable } from './problem.ts'
import { quarantineRoutes } from './quarantine-routes.ts'
import { takeUpgrades } from './upgrades.ts'

/** The HTTP side of the hub, not listening yet; with `tls` it speaks HTTPS. */
export async function createHttpServer(
  given: HttpOptions,
  maxFrameSize: number,
  log: Logger,
  tls: SecureContextOptions | null,
): Promise<FastifyInstance> {
  const { guards } = given
  const store = guards.around(given.store)
  const guarded = guardedOptions(guards)
  const options: FastifyServerOptions = {
    loggerInstance: log,
    logController: new LogController({ disableRequestLogging: true }),
    ...guarded,
    trustProxy: given.trustedProxies.length > 0 && given.trustedProxies,
    forceCloseConnections: 'idle',
    routerOptions: { maxParamLength: 512 },
    // The schemas are the hub's own: to check them with one of schemas took half of the first request.
    ajv: { customOptions: { removeAdditional: false, meta: false, validateSchema: false } },
    schemaController: lateCompilers,
    frameworkErrors: answerUnroutable,
  }
  // Fastify has a type of its own for each kind of server; no route here knows the difference.
  const served = {
    ...options,
    routerOptions: { ...options.routerOptions, ignoreTrailingSlash: true },
    ...(tls && { https: { ...guarded.http, handshakeTimeout: guards.limits.headersTimeout, ...tls } }),
  } as FastifyServerOptions
  const app = fastify(served).withTypeProvider<SchemaTypes>()
  guardServer(app as unknown as FastifyInstance, guards)
  answerProblems(app as unknown as FastifyInstance, given.failure, guards.limits.maxBodySize)
  setSecurityHeaders(app as unknown as FastifyInstance)
  readBodies(app as unknown as FastifyInstance)
  refuseForeignPages(app as unknown as FastifyInstance, given.access, given.corsOrigins)
  if (given.corsOrigins.length > 0) {
    await app.register(cors, { origin: given.corsOrigins, methods: ['GET', 'HEAD', 'PUT', 'PATCH', 'POST', 'DELETE'] })
  }
  const gate = openGate(app as unknown as FastifyInstance, given.access, store.audit)
  refuseUnknownParameters(app as unknown as FastifyInstance)
  const context: HttpContext = { ...given, store, gate }
  const addresses: Address[] = []
  app.addHook('onRoute', ({ method, url, schema }) => {
    if (method !== 'HEAD' && schema && !schema.hide) addresses.push({ method, url, schema })
  })

  await app.register(websocket, {
    // A reader that hangs up in the middle of a frame is no news.
    errorHandler: (error, socket) => failSocket(error, socket, guards),
    options: {
      maxPayload: maxFrameSize,
      // [MQTT-6.0.0-4]
      handleProtocols: (protocols: Set<string>) => (protocols.has('mqtt') ? 'mqtt' : false),
    },
  })
  takeUpgrades(app as unknown as FastifyInstance, guards)
  app.route({
    method: 'GET',
    url: '/mqtt',
    schema: { hide: true },
    handler: () => {
      throw new Problem('upgrade-required', 'MQTT over WebSocket is spoken here, subprotocol "mqtt"')
    },
    wsHandler: (socket, { ip, protocol, raw }) => {
      guardSocket(socket, guards, true)
      guards.handedOver(raw.socket)
      const peer = { address: ip ?? '', names: [], secure: protocol === 'https' }
      const stream = createWebSocketStream(socket)
      // Before the stream gets to see it. [MQTT-6.0.0-1]
      socket.prependListener('message', (_data, isBinary) => {
        if (!isBinary) stream.destroy()
      })
      context.attachMqtt(stream, peer)
    },
  })
  await app.register(ingestRoutes(context))
  await app.register(deviceRoutes(context))
  await app.register(historyRoutes(context))
  await app.register(feedRoutes(context))
  await app.register(consumerRoutes(context))
  await app.register(quarantineRoutes(context))
  await app.register(accessRoutes(context))
  await app.register(operationsRoutes(context))

  // Pages are for people, and most hubs run for machines: their modules load when somebody first looks.
  let opening: Promise<FastifyInstance> | null = null
  const pages = () => {
    opening ??= import('./pages.ts')
      .then(({ openPages }) => openPages(options, context.version, addresses))
      .catch((error) => {
        // Tried again at the next look.
        opening = null
        throw error
      })
    return opening
  }
  app.get('/*', { schema: { hide: true } }, async (request, reply) => {
    const { routing } = await pages()
    reply.hijack()
    routing(request.raw, reply.raw)
  })
  app.addHook('onClose', () =>
    opening?.then(
      (opened) => opened.close(),
      () => {},
    ),
  )
  return app as unknown as FastifyInstance
}
