import { isUtf8 } from 'node:buffer'
import type { FastifyInstance } from 'fastify'
import { Problem } from '../errors.ts'

/** How bodies are read: as they are, as JSON, and never as something that they are not. */
export function readBodies(app: FastifyInstance): void {
  app.addHook('onRequest', async ({ headers }, reply) => {
    const coding = headers['content-encoding']
    if (coding === undefined || coding.toLowerCase() === 'identity') return
    // RFC 9110 §12.5.3, §15.5.16
    reply.header('accept-encoding', 'identity')
    throw new Problem('unsupported-media-type', `the body is coded as "${coding}"`, 'send it as it is, uncompressed')
  })

  app.removeContentTypeParser('text/plain')
  const parse = app.getDefaultJsonParser('error', 'error')
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, body: Buffer, done) => {
    // Many clients name a type with every request, also where they send nothing.
    if (body.length === 0) return done(null, undefined)
    if (!isUtf8(body)) return done(new Problem('invalid-request', notUtf8))
    return parse(request, body.toString(), done)
  })
}

export const notUtf8 = 'the body is not valid UTF-8'
