import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import fastifyStatic from '@fastify/static'
import type { FastifyInstance } from 'fastify'

const pages = fileURLToPath(new URL('../dashboard/public/', import.meta.url))
const charts = join(dirname(createRequire(import.meta.url).resolve('uplot/package.json')), 'dist')

// Everything comes from the hub itself, and nothing runs that is not a file of it.
const contentSecurityPolicy = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'"

/** The page at `/`, with the files that it needs. */
export async function dashboardRoutes(app: FastifyInstance): Promise<void> {
  const setHeaders = (response: { setHeader(name: string, value: string): void }) => {
    response.setHeader('content-security-policy', contentSecurityPolicy)
    response.setHeader('x-content-type-options', 'nosniff')
  }
  await app.register(fastifyStatic, { root: pages, prefix: '/', setHeaders, schemaHide: true })
  await app.register(fastifyStatic, {
    root: charts,
    prefix: '/uplot/',
    decorateReply: false,
    allowedPath: (path) => path === '/uPlot.esm.js' || path === '/uPlot.min.css',
    setHeaders,
    schemaHide: true,
  })
}
