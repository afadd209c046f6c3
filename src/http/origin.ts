import type { FastifyInstance } from 'fastify'
import type { Access } from '../access/access.ts'
import { Problem } from '../errors.ts'

const loopback = /^(localhost|127\.0\.0\.1|\[::1\])(:\d+)?$/

/**
 * Keeps the web pages of strangers out. A browser lets any page send requests to this machine, and open WebSockets
 * that it may then read; it says in `Origin` (RFC 6454) which page that is. A name that was made to point here (DNS
 * rebinding) shows in `Host`; it matters as long as nobody needs a token.
 */
export function refuseForeignPages(app: FastifyInstance, access: Access, allowed: readonly string[]): void {
  app.addHook('onRequest', async (request) => {
    const { host = '', origin } = request.headers
    if (access.open && !loopback.test(host)) {
      throw new Problem('foreign-origin', `this hub is not "${host}"`, 'use localhost or 127.0.0.1 in the address')
    }
    // `Origin` leaves out the port that is usual for its scheme, and so does `Host`.
    if (origin !== undefined && !allowed.includes(origin) && origin !== `${request.protocol}://${host}`) {
      throw new Problem(
        'foreign-origin',
        `pages of ${origin} may not use this hub`,
        'the setting corsOrigins lets them',
      )
    }
  })
}
