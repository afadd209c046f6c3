import type { FastifyInstance } from 'fastify'

/** Everything comes from the hub itself, and nothing runs that is not a file of it. */
export const pagePolicy = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
/** An answer of the API is data, whatever a browser would like to make of it. */
const dataPolicy = "default-src 'none'; frame-ancestors 'none'"

/** What each answer tells a browser not to do with it; a page sets its own policy before. */
export function setSecurityHeaders(app: FastifyInstance): void {
  app.addHook('onSend', async (_request, reply) => {
    reply.header('x-content-type-options', 'nosniff')
    reply.header('referrer-policy', 'no-referrer')
    if (!reply.hasHeader('content-security-policy')) reply.header('content-security-policy', dataPolicy)
  })
}
