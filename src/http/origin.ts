import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Access } from '../access/access.ts'
import { Problem } from '../errors.ts'

const loopback = /^(localhost|127\.0\.0\.1|\[::1\])(:\d+)?$/

/**
 * Whether a request comes from a page of the hub itself, or from none. `Origin` leaves out the port that is usual for its
 * scheme, and so does `Host`. Behind a proxy that is trusted, both are what the browser used.
 */
export function isOwn(request: FastifyRequest): boolean {
  const { origin } = request.headers
  return origin === undefined || origin === `${request.protocol}://${request.host}`
}

/**
 * Keeps the web pages of strangers out. A browser lets any page send requests to this machine, and open WebSockets
 * that it may then read; it says in `Origin` (RFC 6454) which page that is. A name that was made to point here (DNS
 * rebinding) shows in `Host`; it matters as long as nobody needs a token.
 */
export function refuseForeignPages(app: FastifyInstance, access: Access, allowed: readonly string[]): void {
  app.addHook('onRequest', async (request) => {
    const { host, origin } = request.headers
    // RFC 9112 §3.2
    if (host === undefined && request.raw.httpVersion === '1.1') {
      throw new Problem('invalid-request', 'the request has no header "Host"')
    }
    // Also what a proxy calls the hub; a page may pretend to be one.
    const foreign = [host ?? '', request.host].find((name) => !loopback.test(name))
    if (access.open && foreign !== undefined) {
      throw new Problem('foreign-origin', `this hub is not "${foreign}"`, 'use localhost or 127.0.0.1 in the address')
    }
    if (origin !== undefined && !allowed.includes(origin) && !isOwn(request)) {
      throw new Problem(
        'foreign-origin',
        `pages of ${origin} may not use this hub`,
        'the setting corsOrigins lets them; for the pages of the hub behind a proxy, trustedProxies',
      )
    }
  })
}
