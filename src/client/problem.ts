/** What RFC 9457 says of a problem, as the hub fills it in. `type` is stable and the thing to compare. */
export interface ProblemDetails {
  type: string
  status: number
  title: string
  detail: string
  /** What to do about it. */
  hint: string | undefined
}

/** The hub, or something before it, has refused. */
export class ProblemError extends Error implements ProblemDetails {
  override readonly name = 'ProblemError'
  readonly type: string
  readonly status: number
  readonly title: string
  readonly detail: string
  readonly hint: string | undefined
  /** Members of the answer besides these, such as the `oldest` cursor that still works after a 410. */
  readonly extra: Record<string, unknown>
  /** What `Retry-After` asks for. RFC 9110 §10.2.3 */
  readonly retryAfterMillis: number | null

  constructor(details: ProblemDetails, extra: Record<string, unknown> = {}, retryAfterMillis: number | null = null) {
    super(`${details.status} ${details.title}: ${details.detail}`)
    this.type = details.type
    this.status = details.status
    this.title = details.title
    this.detail = details.detail
    this.hint = details.hint
    this.extra = extra
    this.retryAfterMillis = retryAfterMillis
  }

  /** The same request would be refused for ever: its sender has to change something. */
  get lasting(): boolean {
    return this.status >= 400 && this.status < 500 && !passingRefusals.has(this.status)
  }
}

/** Request Timeout, Too Early, Too Many Requests: the only refusals that the same request may outlive. */
const passingRefusals = new Set([408, 425, 429])

/** An answer that is no success, as an error. Proxies answer in their own words, so that nothing is relied on. */
export async function readProblem(response: Response): Promise<ProblemError> {
  const { type, title, detail, hint, status: _, instance: __, ...extra } = parseObject(await response.text())
  return new ProblemError(
    {
      type: textOr(type, 'about:blank'),
      status: response.status,
      title: textOr(title, response.statusText || 'The request has failed'),
      detail: textOr(detail, `${response.url || 'the server'} has answered ${response.status}`),
      hint: typeof hint === 'string' ? hint : undefined,
    },
    extra,
    readRetryAfter(response.headers.get('retry-after'), Date.now()),
  )
}

function parseObject(text: string): Record<string, unknown> {
  try {
    const content: unknown = JSON.parse(text)
    return typeof content === 'object' && content !== null ? (content as Record<string, unknown>) : {}
  } catch {
    return {}
  }
}

function textOr(content: unknown, otherwise: string): string {
  return typeof content === 'string' ? content : otherwise
}

/** Seconds or a date. */
function readRetryAfter(text: string | null, now: number): number | null {
  if (text === null) return null
  const millis = /^\d+$/.test(text.trim()) ? Number(text) * 1000 : Date.parse(text) - now
  return Number.isFinite(millis) ? Math.max(0, millis) : null
}
