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
import { historyRoutes } from './history-routes.ts'
import { ingestRoutes } from './ingest-routes.ts'
import { operationsRoutes } from './operations-routes.ts'
import { refuseForeignPages } from './origin.ts'
import type { Address } from './pages.ts'
import { answerProblems } from './problem.ts'
import { quarantineRoutes } from './quarantine-routes.ts'

const maxBodyBytes = 4 * 1024 * 1024
const maxFrameBytes = 1024 * 1024

/** The HTTP side of the hub, not listening yet. */
export async function createHttpServer(context: HttpContext, log: Logger): Promise<FastifyInstance> {
  const options: FastifyServerOptions = {
    loggerInstance: log,
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: maxBodyBytes,
    forceCloseConnections: 'idle',
    routerOptions: { maxParamLength: 512 },
    ajv: { customOptions: { removeAdditional: false } },
  }
  const app = fastify(options).withTypeProvider<TypeBoxTypeProvider>()
  answerProblems(app as unknown as FastifyInstance, context.failure)
  refuseForeignPages(app as unknown as FastifyInstance)
  const addresses: Address[] = []
  app.addHook('onRoute', ({ method, url, schema }) => {
    if (method !== 'HEAD' && schema && !schema.hide) addresses.push({ method, url, schema })
  })

  await app.register(websocket, {
    options: {
      maxPayload: maxFrameBytes,
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
    wsHandler: (socket, request) => context.attachMqtt(createWebSocketStream(socket), request.ip),
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
