/** The right to work on some deliveries before they go to somebody else, kept up while they are worked on. */
export interface Lease {
  /** As this side reckons, in milliseconds since the epoch. */
  readonly endsAt: number
  /** Aborted when the lease has ended before the work. */
  readonly signal: AbortSignal
  /** Extends it now for all that is left. */
  extend(): Promise<void>
  /** These are done. Resolves when no extension that names them is on its way. */
  drop(ids: string[]): Promise<void>
  /** No more extensions. */
  end(): void
}

/** Extends at a third of the time, so that two attempts may fail. */
export function createLease(
  ids: string[],
  ackWaitMillis: number,
  send: (ids: string[], deadline: () => number) => Promise<void>,
): Lease {
  const left = new Set(ids)
  const controller = new AbortController()
  let endsAt = Date.now() + ackWaitMillis
  let sending: Promise<void> | null = null
  let timer = setTimeout(onTimer, ackWaitMillis / 3)
  let ended = false

  function onTimer(): void {
    void extend().then(() => {
      if (!ended && !controller.signal.aborted) timer = setTimeout(onTimer, ackWaitMillis / 3)
    })
  }

  function extend(): Promise<void> {
    sending ??= sendOnce().finally(() => {
      sending = null
    })
    return sending
  }

  async function sendOnce(): Promise<void> {
    if (left.size === 0 || ended || controller.signal.aborted) return
    // Reckoned from before the request: the hub counts from when it got it.
    const begin = Date.now()
    try {
      await send([...left], () => endsAt)
      endsAt = begin + ackWaitMillis
    } catch (cause) {
      controller.abort(new Error('the lease of these deliveries could not be extended', { cause }))
    }
  }

  return {
    get endsAt() {
      return endsAt
    },
    signal: controller.signal,
    extend,
    async drop(done) {
      for (const id of done) left.delete(id)
      await sending
    },
    end() {
      ended = true
      clearTimeout(timer)
    },
  }
}

const units = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 } as const

/** `30s` in milliseconds, as the hub writes times. */
export function readMillis(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d|w)$/.exec(text)
  if (!match) throw new Error(`the hub's "${text}" is no time such as 30s`)
  return Number(match[1]) * units[match[2] as keyof typeof units]
}
