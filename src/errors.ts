/** Every error that a client can meet, in one place; the documentation lists them from here. */
export const problems = {
  'invalid-request': { status: 400, title: 'The request is not valid' },
  'invalid-telemetry': { status: 400, title: 'The body holds no reading that can be stored' },
  'invalid-cursor': { status: 400, title: 'The cursor is malformed' },
  'too-costly': { status: 400, title: 'The answer takes more work than one request may ask for' },
  unauthorized: { status: 401, title: 'Who you are is not known here' },
  forbidden: { status: 403, title: 'You may not do this' },
  'foreign-origin': { status: 403, title: 'The request comes from a page of somebody else' },
  'not-found': { status: 404, title: 'There is nothing here' },
  'unknown-device': { status: 404, title: 'The hub knows no such device' },
  'unknown-credential': { status: 404, title: 'There is no such credential' },
  'unknown-consumer': { status: 404, title: 'There is no such consumer' },
  'unknown-dead-letter': { status: 404, title: 'The consumer has no such dead letter' },
  'unknown-quarantine-entry': { status: 404, title: 'The quarantine holds no such entry' },
  'method-not-allowed': { status: 405, title: 'The address is not for this method' },
  'not-acceptable': { status: 406, title: 'The answer has no such form' },
  'foreign-cursor': { status: 409, title: 'The cursor is of another hub, or from the future' },
  'still-unreadable': { status: 409, title: 'The entry can still not be read' },
  'consumer-pushed': { status: 409, title: 'The hub itself moves the cursor of this consumer' },
  'consumer-pulled': { status: 409, title: 'The consumer is not pushed' },
  'request-timeout': { status: 408, title: 'The request took too long to arrive' },
  'too-many': { status: 409, title: 'There are as many as there may be' },
  'cursor-gone': { status: 410, title: 'The cursor is older than what is kept' },
  'too-large': { status: 413, title: 'The body is too large' },
  'unsupported-media-type': { status: 415, title: 'The body is of a kind that is not read here' },
  'too-many-requests': { status: 429, title: 'The client asks too much at once' },
  'headers-too-large': { status: 431, title: 'The headers are too large, or too many' },
  'upgrade-required': { status: 426, title: 'This address speaks WebSocket' },
  'too-many-attempts': { status: 429, title: 'There were too many wrong passwords' },
  damaged: { status: 500, title: 'A part of the database is damaged' },
  'internal-error': { status: 500, title: 'The hub has failed' },
  'too-busy': { status: 503, title: 'The hub has more to do than it takes on' },
  'storage-unavailable': { status: 503, title: 'The hub cannot store at present' },
  stopping: { status: 503, title: 'The hub is stopping' },
} as const

export type ProblemCode = keyof typeof problems

/** An error that the client is told: what happened, and what to do about it. */
export class Problem extends Error {
  readonly code: ProblemCode
  readonly hint: string | undefined
  /** Members of the answer besides those of RFC 9457. */
  readonly extra: Record<string, unknown>

  constructor(code: ProblemCode, detail: string, hint?: string, extra: Record<string, unknown> = {}) {
    super(detail)
    this.code = code
    this.hint = hint
    this.extra = extra
  }
}

/** The hub cannot start as it was told to: one line for a person, with what to do. */
export class StartError extends Error {}
