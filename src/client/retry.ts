import { ProblemError } from './problem.ts'

const firstPauseMillis = 200
const maxPauseMillis = 30_000
/** A server may ask for any pause; whoever follows a feed should hear of its return within the hour. */
const maxRetryAfterMillis = 3_600_000

/**
 * How long to wait after so many failures in a row: exponential with full jitter, so that readers who lost their hub
 * at the same moment do not return at the same moment. `Retry-After` is a floor under it.
 */
export function pauseMillis(failures: number, cause: unknown): number {
  const jitter = Math.random() * Math.min(firstPauseMillis * 2 ** (failures - 1), maxPauseMillis)
  const asked = cause instanceof ProblemError ? cause.retryAfterMillis : null
  return asked === null ? jitter : Math.min(asked, maxRetryAfterMillis) + Math.min(jitter, firstPauseMillis)
}

/** Resolves after the time, or at once when the signal is aborted. */
export function pause(millis: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve()
    const timer = setTimeout(finish, millis)
    function finish(): void {
      clearTimeout(timer)
      signal?.removeEventListener('abort', finish)
      resolve()
    }
    signal?.addEventListener('abort', finish)
  })
}

export interface RetryOptions {
  /** Ends the attempts; the result is then the signal's reason. */
  signal: AbortSignal | undefined
  /** No attempt begins after this moment. Read anew each time, as a lease may be extended meanwhile. */
  deadline(): number
}

/** Tries until it works, is refused for good, or the time is over; then throws what the last attempt threw. */
export async function retry<T>(attempt: () => Promise<T>, { signal, deadline }: RetryOptions): Promise<T> {
  for (let failures = 1; ; failures++) {
    signal?.throwIfAborted()
    try {
      return await attempt()
    } catch (error) {
      signal?.throwIfAborted()
      if (error instanceof ProblemError && error.lasting) throw error
      const millis = pauseMillis(failures, error)
      if (Date.now() + millis >= deadline()) throw error
      await pause(millis, signal)
    }
  }
}

/** A controller that is aborted with the signal. `release` when done: a signal may outlive thousands of these. */
export function linkSignal(signal: AbortSignal | undefined): { controller: AbortController; release(): void } {
  const controller = new AbortController()
  const abort = () => controller.abort(signal?.reason)
  if (signal?.aborted) abort()
  else signal?.addEventListener('abort', abort)
  return { controller, release: () => signal?.removeEventListener('abort', abort) }
}

/** The promise's result, unless there is none in time: then `onLate` is to break what is waited for. */
export async function within<T>(millis: number, promise: Promise<T>, onLate: () => void): Promise<T> {
  const timer = setTimeout(onLate, millis)
  try {
    return await promise
  } finally {
    clearTimeout(timer)
  }
}
