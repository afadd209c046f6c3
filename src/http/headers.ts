import type { FastifyInstance, FastifyReply } from 'fastify'

/** Everything comes from the hub itself, and nothing runs that is not a file of it. */
export const pagePolicy = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
/** An answer of the API is data, whatever a browser would like to make of it. */
const dataPolicy = "default-src 'none'; frame-ancestors 'none'"

/** A year, as is usual. RFC 6797 */
const strictTransport = 'max-age=31536000'

/** What each answer tells a browser not to do with it; a page sets its own policy before. */
export function setSecurityHeaders(app: FastifyInstance): void {
  app.addHook('onSend', async (request, reply) => {
    warnBrowsers(reply)
    // It holds for all ports of a host, so that only who has the usual one may say it.
    if (request.protocol === 'https' && !/:\d+$/.test(request.host)) {
      reply.header('strict-transport-security', strictTransport)
    }
  })
}

export function warnBrowsers(reply: FastifyReply): void {
  reply.header('x-content-type-options', 'nosniff')
  reply.header('referrer-policy', 'no-referrer')
  if (!reply.hasHeader('content-security-policy')) reply.header('content-security-policy', dataPolicy)
}
