import type { Millis } from '../devices/reading.ts'

/**
 * One wrapper for every hook that Aedes calls with a callback last: a hook that throws answers with its error, and one
 * that answers twice is heard once. Left alone, either would end the process. With a deadline, one that does not answer
 * in time has answered with an error.
 */
export function guarded<F extends (...all: never[]) => void>(hook: F, deadline?: Millis): F {
  const wrapped = (...all: unknown[]): void => {
    const done = all.pop() as (...results: unknown[]) => void
    let called = false
    const once = (...results: unknown[]) => {
      if (called) return
      called = true
      done(...results)
    }
    try {
      ;(hook as unknown as (...all: unknown[]) => void)(...all, once)
    } catch (error) {
      once(error, false)
    }
    if (called || deadline === undefined) return
    const timer = setTimeout(() => once(new Error('the hub was too slow to decide'), false), deadline)
    timer.unref()
  }
  return wrapped as unknown as F
}
