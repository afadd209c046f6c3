import type { EventEmitter } from 'node:events'
import type { FastifyInstance, FastifyReply } from 'fastify'
import { parseRfc3339 } from '../../devices/time.ts'
import type { Revocation } from '../access/revocation.ts'
import { Problem } from '../errors.ts'

/*
 * Parameters of queries, as clients write them. Each function answers with the value, or throws the problem that says
 * what is expected.
 */

/**
 * A parameter that an address does not know, or that says nothing, would be passed over in silence, and the answer be
 * to another question than the one that was asked.
 */
export function refuseUnknownParameters(app: FastifyInstance): void {
  app.addHook('preValidation', async ({ query, routeOptions }) => {
    const { schema, url } = routeOptions
    if (!url?.startsWith('/v1/')) return
    const known = Object.keys((schema?.querystring as { properties?: object } | undefined)?.properties ?? {})
    for (const [name, value] of Object.entries(query as Record<string, unknown>)) {
      if (!known.includes(name)) {
        const hint = known.length > 0 ? `it takes ${known.join(', ')}` : 'it takes none'
        throw new Problem('invalid-request', `this address takes no parameter "${name}"`, hint)
      }
      if (Array.isArray(value)) {
        throw new Problem('invalid-request', `"${name}" is there ${value.length} times`, 'separate names by commas')
      }
      if (value === '') throw new Problem('invalid-request', `"${name}" is empty`, 'leave it out, or give it a value')
    }
  })
}

/** Integer milliseconds or RFC 3339. */
export function readTimeParameter(name: string, text: string | undefined): number | null {
  if (text === undefined) return null
  const ts = /^-?\d{1,15}$/.test(text) ? Number(text) : parseRfc3339(text)
  if (ts === null) {
    throw new Problem(
      'invalid-request',
      `"${name}" is "${text}": expected integer milliseconds or RFC 3339, such as 2026-01-31T12:00:00Z`,
      text.includes(' ') ? 'a "+" in a URL means a space: write it as %2B' : undefined,
    )
  }
  return ts
}

/** Each of the items of a list separated by commas, once, if they are all among the known ones. */
export function readChoices<T extends string>(name: string, text: string, known: readonly T[]): T[] {
  const items = text.split(',') as T[]
  for (const item of items) {
    if (!known.includes(item)) {
      throw new Problem('invalid-request', `"${name}" holds "${item}": expected some of ${known.join(', ')}`)
    }
  }
  return [...new Set(items)]
}

export function readChoice<T extends string>(name: string, text: string, known: readonly T[]): T {
  if (known.includes(text as T)) return text as T
  throw new Problem('invalid-request', `"${name}" is "${text}": expected one of ${known.join(', ')}`)
}

/** How lists of names are written, for the documentation. */
export const patternList = 'comma list; `*` stands for any characters, `\\,` for a comma in a name'

/** The next page of the same query, as a link. RFC 8288 */
export function nextLink(url: string, next: string): string {
  const [path, query = ''] = url.split('?')
  const parameters = new URLSearchParams(query)
  parameters.set('cursor', next)
  return `<${path}?${parameters}>; rel="next"`
}

/** Aborts when the client has gone, or the answer has left, or what let the client in is no longer good. */
export function closeSignal(reply: FastifyReply, granted: Revocation): AbortSignal {
  return abortOn(reply.raw, granted).signal
}

/** Ends an answer in the middle, so that nobody takes it for a whole one, when what let the client in is no longer good. */
export function cutOff({ raw }: FastifyReply, granted: Revocation): void {
  raw.once(
    'close',
    granted.onRevoked(() => void raw.destroy()),
  )
}

/** Aborts when a connection has closed, or what let its client in is no longer good. */
export function abortOn(connection: EventEmitter, granted: Revocation): AbortController {
  const aborter = new AbortController()
  const abort = () => aborter.abort()
  const leave = granted.onRevoked(abort)
  connection.once('close', () => {
    leave()
    abort()
  })
  return aborter
}
