import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import websocket from '@fastify/websocket'
import fastify, { type FastifyInstance, type FastifyServerOptions, LogController } from 'fastify'
import type { Logger } from 'pino'
import { createWebSocketStream } from 'ws'
import { Problem } from '../errors.ts'
import { consumerRoutes } from './consumer-routes.ts'
import type { HttpContext } from './context.ts'
import { deviceRoutes } from './device-routes.ts'
import { feedRoutes } from './feed-routes.ts'
import { guardedOptions, guardServer, guardSocket } from './guarded-server.ts'
import { historyRoutes } from './history-routes.ts'
import { ingestRoutes } from './ingest-routes.ts'
import { operationsRoutes } from './operations-routes.ts'
import { refuseForeignPages } from './origin.ts'
import type { Address } from './pages.ts'
import { answerProblems } from './problem.ts'
import { quarantineRoutes } from './quarantine-routes.ts'

/** The HTTP side of the hub, not listening yet. */
export async function createHttpServer(
  given: HttpContext,
  maxFrameSize: number,
  log: Logger,
): Promise<FastifyInstance> {
  const { guards } = given
  const context = { ...given, store: guards.around(given.store) }
  const options: FastifyServerOptions = {
    loggerInstance: log,
    logController: new LogController({ disableRequestLogging: true }),
    ...guardedOptions(guards),
    forceCloseConnections: 'idle',
    routerOptions: { maxParamLength: 512 },
    ajv: { customOptions: { removeAdditional: false } },
  }
  const app = fastify(options).withTypeProvider<TypeBoxTypeProvider>()
  guardServer(app as unknown as FastifyInstance, guards)
  answerProblems(app as unknown as FastifyInstance, context.failure, guards.limits.maxBodySize)
  refuseForeignPages(app as unknown as FastifyInstance)
  const addresses: Address[] = []
  app.addHook('onRoute', ({ method, url, schema }) => {
    if (method !== 'HEAD' && schema && !schema.hide) addresses.push({ method, url, schema })
  })

  await app.register(websocket, {
    // A reader that hangs up in the middle of a frame is no news.
    errorHandler: (_error, socket) => socket.terminate(),
    options: {
      maxPayload: maxFrameSize,
      // [MQTT-6.0.0-4]
      handleProtocols: (protocols: Set<string>) => (protocols.has('mqtt') ? 'mqtt' : false),
    },
  })
  app.route({
    method: 'GET',
    url: '/mqtt',
    schema: { hide: true },
    handler: () => {
      throw new Problem('upgrade-required', 'MQTT over WebSocket is spoken here, subprotocol "mqtt"')
    },
    wsHandler: (socket, request) => {
      guardSocket(socket, guards, true)
      guards.handedOver(request.raw.socket)
      context.attachMqtt(createWebSocketStream(socket), request.ip ?? '')
    },
  })
  await app.register(ingestRoutes(context))
  await app.register(deviceRoutes(context))
  await app.register(historyRoutes(context))
  await app.register(feedRoutes(context))
  await app.register(consumerRoutes(context))
  await app.register(quarantineRoutes(context))
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
