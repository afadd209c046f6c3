import type { EventEmitter } from 'node:events'
import type { FastifyReply } from 'fastify'
import { parseRfc3339 } from '../../devices/time.ts'
import { Problem } from '../errors.ts'

/*
 * Parameters of queries, as clients write them. Each function answers with the value, or throws the problem that says
 * what is expected.
 */

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

/** A list separated by commas; without it an empty one. */
export function readList(text: string | undefined): string[] {
  return text === undefined ? [] : text.split(',').filter((item) => item !== '')
}

/** Each of the items, if they are all among the known ones. */
export function readChoices<T extends string>(name: string, text: string, known: readonly T[]): T[] {
  const items = readList(text)
  for (const item of items) {
    if (!known.includes(item as T)) {
      throw new Problem('invalid-request', `"${name}" holds "${item}": expected some of ${known.join(', ')}`)
    }
  }
  return items as T[]
}

export function readChoice<T extends string>(name: string, text: string, known: readonly T[]): T {
  if (known.includes(text as T)) return text as T
  throw new Problem('invalid-request', `"${name}" is "${text}": expected one of ${known.join(', ')}`)
}

/** The next page of the same query, as a link. RFC 8288 */
export function nextLink(url: string, next: string): string {
  const [path, query = ''] = url.split('?')
  const parameters = new URLSearchParams(query)
  parameters.set('cursor', next)
  return `<${path}?${parameters}>; rel="next"`
}

/** Aborts when the client has gone, or the answer has left, or what let the client in is no longer good. */
export function closeSignal(reply: FastifyReply, granted: AbortSignal): AbortSignal {
  return abortOn(reply.raw, granted).signal
}

/** Ends an answer in the middle, so that nobody takes it for a whole one, when what let the client in is no longer good. */
export function cutOff({ raw }: FastifyReply, granted: AbortSignal): void {
  const cut = () => void raw.destroy()
  if (granted.aborted) cut()
  granted.addEventListener('abort', cut)
  raw.once('close', () => granted.removeEventListener('abort', cut))
}

/** Aborts when a connection has closed, or what let its client in is no longer good. */
export function abortOn(connection: EventEmitter, granted: AbortSignal): AbortController {
  const aborter = new AbortController()
  const abort = () => aborter.abort()
  granted.addEventListener('abort', abort)
  connection.once('close', () => {
    granted.removeEventListener('abort', abort)
    abort()
  })
  if (granted.aborted) abort()
  return aborter
}
