import type { FastifyInstance } from 'fastify'
import { Problem } from '../errors.ts'

const loopback = /^(localhost|127\.0\.0\.1|\[::1\])(:\d+)?$/

/**
 * Keeps the web pages of strangers out. A browser lets any page send requests to this machine, and open WebSockets
 * that it may then read; it says in `Origin` (RFC 6454) which page that is. A name that was made to point here (DNS
 * rebinding) shows in `Host`.
 */
export function refuseForeignPages(app: FastifyInstance): void {
  app.addHook('onRequest', async (request) => {
    const { host = '', origin } = request.headers
    if (!loopback.test(host)) {
      throw new Problem('foreign-origin', `this hub is not "${host}"`, 'use localhost or 127.0.0.1 in the address')
    }
    // `Origin` leaves out the port that is usual for its scheme, and so does `Host`.
    if (origin !== undefined && origin !== `${request.protocol}://${host}`) {
      throw new Problem('foreign-origin', `pages of ${origin} may not use this hub`)
    }
  })
}
