import { type ClientRequest, Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http'
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https'
import type { AddressGuard } from './addresses.ts'
import { createSigner } from './signature.ts'

/** What is sent: the id stays the same over all attempts at one message. */
interface Message {
  id: string
  /** JSON. */
  body: Uint8Array
}

/** What came of one request. */
export interface Attempt {
  /** When it began, in milliseconds since the Unix epoch. */
  at: number
  /** `null` when there was no answer. */
  status: number | null
  durationMillis: number
  /** `null` means success: a 2xx that arrived whole. Anything else in words for a person. */
  error: string | null
  /** What the receiver asked for, from the end of the attempt on. */
  retryAfterMillis: number | null
}

/** Makes one attempt. Never rejects. */
export type Post = (message: Message, signal: AbortSignal) => Promise<Attempt>

export interface Poster {
  post: Post
  /** Lets go of the connections that wait for further use. */
  close(): void
}

export interface PosterOptions {
  url: string
  secrets: readonly string[]
  timeoutMillis: number
  guard: AddressGuard
  /** Of the hub, for the `user-agent`. */
  version: string
  /** Certificates (PEM) that are trusted instead of those that Node knows. */
  ca?: string
}

/** Of an answer, this much is read so that the connection can be used again; what says more loses the connection. */
const maxAnswerBytes = 16 * 1024
const maxExcerptCharacters = 200
/** A receiver that asks for more is asked again all the same: by then somebody may have mended it. */
const maxRetryAfterMillis = 3_600_000
/** Below the 60 s after which common load balancers drop what is idle. */
const idleMillis = 30_000

export function createPoster({ url, secrets, timeoutMillis, guard, version, ca }: PosterOptions): Poster {
  const target = new URL(url)
  const secure = target.protocol === 'https:'
  const kept = { keepAlive: true, timeout: idleMillis }
  // Certificates are checked whatever NODE_TLS_REJECT_UNAUTHORIZED says.
  const agent = secure
    ? new HttpsAgent({ ...kept, rejectUnauthorized: true, ...(ca === undefined ? {} : { ca }) })
    : new HttpAgent(kept)
  const send = secure ? httpsRequest : httpRequest
  const sign = createSigner(secrets)

  function post({ id, body }: Message, signal: AbortSignal): Promise<Attempt> {
    const at = Date.now()
    const begun = performance.now()
    return new Promise((resolve) => {
      let request: ClientRequest | null = null
      let answered: IncomingMessage | null = null
      let settled = false
      const late = `there was no whole answer within ${timeoutMillis} ms`
      const timer = setTimeout(() => settle(late), timeoutMillis)
      const stop = (): void => settle('the hub stopped the attempt')

      function settle(error: string | null): void {
        if (settled) return
        settled = true
        clearTimeout(timer)
        signal.removeEventListener('abort', stop)
        // Once the answer has been read to its end, the connection is the agent's.
        if (!answered?.complete) request?.destroy()
        resolve({
          at,
          status: answered?.statusCode ?? null,
          durationMillis: Math.round(performance.now() - begun),
          error,
          retryAfterMillis: answered ? readRetryAfter(answered.headers['retry-after'], Date.now()) : null,
        })
      }

      function exchange(): void {
        const sent = send(target, {
          method: 'POST',
          agent,
          lookup: guard.lookup,
          headers: {
            'content-type': 'application/json',
            'content-length': body.byteLength,
            'user-agent': `telemetry-hub/${version}`,
            ...sign(id, Date.now(), body),
          },
        })
        request = sent
        sent.on('response', (answer) => {
          answered = answer
          readAnswer(answer, (text, whole) => settle(verdict(answer, text, whole)))
        })
        sent.on('error', (error: NodeJS.ErrnoException) => {
          // A kept connection that the receiver closed in the same moment has carried nothing: that is nobody's failure.
          const stale = sent.reusedSocket && !answered && (error.code === 'ECONNRESET' || error.code === 'EPIPE')
          if (stale && !settled) exchange()
          else settle(wordsOf(error))
        })
        sent.on('close', () => {
          // An answer may still have to be read when its connection is gone already; it tells how it ended.
          if (request === sent && !answered) settle('the connection closed before there was an answer')
        })
        sent.end(body)
      }

      const refusal = guard.refusal(target.hostname)
      if (refusal !== null) return settle(refusal)
      if (signal.aborted) return stop()
      signal.addEventListener('abort', stop)
      try {
        exchange()
      } catch (error) {
        settle(wordsOf(error as Error))
      }
    })
  }

  return { post, close: () => agent.destroy() }
}

/** Calls back once: with the beginning of the text, and whether all of it came. What goes on too long counts as whole. */
function readAnswer(answer: IncomingMessage, done: (text: string, whole: boolean) => void): void {
  const chunks: Buffer[] = []
  let bytes = 0
  const finish = (whole: boolean): void =>
    done(Buffer.concat(chunks).toString('utf8', 0, 4 * maxExcerptCharacters), whole)
  answer.on('data', (chunk: Buffer) => {
    chunks.push(chunk)
    bytes += chunk.length
    if (bytes > maxAnswerBytes) finish(true)
  })
  answer.on('end', () => finish(true))
  answer.on('error', () => finish(false))
  answer.on('close', () => finish(answer.complete))
}

function verdict(answer: IncomingMessage, text: string, whole: boolean): string | null {
  const status = answer.statusCode ?? 0
  const excerpt = printable(text)
  if (status >= 300 && status < 400) {
    const place = printable(answer.headers.location ?? '')
    return `answered ${status}${place && ` to ${place}`}: redirects are not followed, give the address that they lead to`
  }
  if (status < 200 || status > 299) return `answered ${status}${excerpt && `: ${excerpt}`}`
  // A receiver that breaks off may have fallen while it was at work: better twice than never.
  return whole ? null : `answered ${status}, but broke off`
}

function printable(text: string): string {
  const plain = text.replace(/[\p{C}\s]+/gu, ' ').trim()
  return plain.length > maxExcerptCharacters ? `${plain.slice(0, maxExcerptCharacters)}…` : plain
}

function wordsOf(error: Error): string {
  // When several addresses were tried, the error itself says nothing.
  const errors: Error[] = error instanceof AggregateError ? error.errors : [error]
  return errors.map(({ message, name }) => message || name).join('; ')
}

/** Seconds or an HTTP date, RFC 9110 §10.2.3; `null` for anything else, and for a time that has passed. */
export function readRetryAfter(text: string | undefined, wallMillis: number): number | null {
  if (text === undefined) return null
  const millis = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - wallMillis
  return millis > 0 ? Math.min(millis, maxRetryAfterMillis) : null
}
