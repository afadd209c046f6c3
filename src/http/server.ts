import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import websocket from '@fastify/websocket'
import fastify, { type FastifyInstance, LogController } from 'fastify'
import type { Logger } from 'pino'
import { createWebSocketStream } from 'ws'
import { Problem } from '../errors.ts'
import { consumerRoutes } from './consumer-routes.ts'
import type { HttpContext } from './context.ts'
import { dashboardRoutes } from './dashboard-routes.ts'
import { deviceRoutes } from './device-routes.ts'
import { feedRoutes } from './feed-routes.ts'
import { historyRoutes } from './history-routes.ts'
import { ingestRoutes } from './ingest-routes.ts'
import { operationsRoutes } from './operations-routes.ts'
import { refuseForeignPages } from './origin.ts'
import { answerProblems, listProblems } from './problem.ts'
import { quarantineRoutes } from './quarantine-routes.ts'

const maxBodyBytes = 4 * 1024 * 1024
const maxFrameBytes = 1024 * 1024

const about = 'Devices push; everything that was acknowledged can be pulled as history or followed as a feed.'

/** The HTTP side of the hub, not listening yet. */
export async function createHttpServer(context: HttpContext, log: Logger): Promise<FastifyInstance> {
  const app = fastify({
    loggerInstance: log,
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: maxBodyBytes,
    forceCloseConnections: 'idle',
    routerOptions: { maxParamLength: 512 },
    ajv: { customOptions: { removeAdditional: false } },
  }).withTypeProvider<TypeBoxTypeProvider>()
  answerProblems(app as unknown as FastifyInstance, context.failure)
  refuseForeignPages(app as unknown as FastifyInstance)

  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'telemetry-hub',
        version: context.version,
        description: `${about}\n\n${listProblems()}`,
        license: { name: 'MIT', identifier: 'MIT' },
      },
      tags: [
        { name: 'Push', description: 'Telemetry in' },
        { name: 'Pull', description: 'Devices, history and latest values' },
        { name: 'Feed', description: 'One durable log, read from a cursor' },
        { name: 'Consumers', description: 'Durable cursors with a name, pulled with acknowledgements' },
        { name: 'Quarantine', description: 'What could not be read' },
        { name: 'Operations', description: 'Health and figures' },
      ],
    },
  })
  await app.register(swaggerUi, { routePrefix: '/docs', uiConfig: { docExpansion: 'list', deepLinking: true } })
  await app.register(websocket, {
    options: {
      maxPayload: maxFrameBytes,
      // [MQTT-6.0.0-4]
      handleProtocols: (protocols: Set<string>) => (protocols.has('mqtt') ? 'mqtt' : false),
    },
  })
  app.get('/openapi.json', { schema: { hide: true } }, () => app.swagger())
  app.route({
    method: 'GET',
    url: '/mqtt',
    schema: { hide: true },
    handler: () => {
      throw new Problem('upgrade-required', 'MQTT over WebSocket is spoken here, subprotocol "mqtt"')
    },
    wsHandler: (socket) => context.attachMqtt(createWebSocketStream(socket)),
  })
  await app.register(ingestRoutes(context))
  await app.register(deviceRoutes(context))
  await app.register(historyRoutes(context))
  await app.register(feedRoutes(context))
  await app.register(consumerRoutes(context))
  await app.register(quarantineRoutes(context))
  await app.register(operationsRoutes(context))
  await app.register(dashboardRoutes)
  return app as unknown as FastifyInstance
}
