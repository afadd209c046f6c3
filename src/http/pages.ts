import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import fastifyStatic from '@fastify/static'
import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import fastify from 'fastify'
import { type Address, describeAddress, ProblemSchema } from './documentation.ts'
import { pagePolicy, setSecurityHeaders } from './headers.ts'
import { answerProblems, listProblems } from './problem.ts'

const files = fileURLToPath(new URL('../dashboard/public/', import.meta.url))
const charts = join(dirname(createRequire(import.meta.url).resolve('uplot/package.json')), 'dist')

const bearer =
  'A token such as hub_k3fw92ha_…. While the hub has no credentials, and listens on this machine only, none is needed.'
const about = 'Devices push; everything that was acknowledged can be pulled as history or followed as a feed.'

/**
 * What people look at: the dashboard at `/`, the documentation at `/docs`, and the OpenAPI document of all addresses.
 * It answers requests that the hub's own server hands to its `routing`, and never listens.
 */
export async function openPages(
  options: FastifyServerOptions,
  version: string,
  addresses: readonly Address[],
): Promise<FastifyInstance> {
  const app = fastify(options) as unknown as FastifyInstance
  answerProblems(app, () => null, options.bodyLimit ?? 0)
  setSecurityHeaders(app)
  await app.register(swagger, {
    refResolver: { buildLocalReference: ({ $id }) => String($id) },
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'telemetry-hub',
        version,
        description: `${about}\n\n${listProblems()}`,
        license: { name: 'MIT', identifier: 'MIT' },
      },
      components: { securitySchemes: { token: { type: 'http', scheme: 'bearer', description: bearer } } },
      tags: [
        { name: 'Push', description: 'Telemetry in' },
        { name: 'Pull', description: 'Devices, history and latest values' },
        { name: 'Feed', description: 'One durable log, read from a cursor' },
        { name: 'Consumers', description: 'Durable cursors with a name, pulled with acknowledgements' },
        { name: 'Quarantine', description: 'What could not be read' },
        { name: 'Access', description: 'Who may do what' },
        { name: 'Operations', description: 'Health and figures' },
      ],
    },
  })
  app.addSchema(ProblemSchema)
  for (const address of addresses) app.route({ ...describeAddress(address), handler: answeredElsewhere })
  app.get('/openapi.json', { schema: { hide: true } }, () => app.swagger())
  await app.register(swaggerUi, {
    routePrefix: '/docs',
    uiConfig: { docExpansion: 'list', deepLinking: true },
    staticCSP: true,
    // Over plain HTTP nothing of the page would load: only on this machine browsers know better.
    transformStaticCSP: (policy) => policy.replace(/ *upgrade-insecure-requests;?/, ''),
  })
  await app.register(dashboard)
  await app.ready()
  return app
}

function answeredElsewhere(): never {
  throw new Error('BUG: this address is only documented here')
}

async function dashboard(app: FastifyInstance): Promise<void> {
  const setHeaders = (response: { setHeader(name: string, value: string): void }) => {
    response.setHeader('content-security-policy', pagePolicy)
  }
  await app.register(fastifyStatic, { root: files, prefix: '/', setHeaders, schemaHide: true })
  await app.register(fastifyStatic, {
    root: charts,
    prefix: '/uplot/',
    decorateReply: false,
    allowedPath: (path) => path === '/uPlot.esm.js' || path === '/uPlot.min.css',
    setHeaders,
    schemaHide: true,
  })
}
